"""What is in labelled frames and what is wrong with them: one check per file, joined in
`examine`.
"""
