"""
5. MoS2: phonon bands, before and after refinement
==================================================

Phonons are second derivatives of the energy: a potential may have small force errors and bend the
wrong way. Here the bands of a single layer of MoS2 are compared with DFT along Gamma-M-K-Gamma, for
the seed as it is, fine-tuned by Adam, and refined from there by two second-order methods.
"""

# %%
# The recipe
# ----------
# Training frames are few: thermal displacements and strained cells of a small supercell, and two
# isolated atoms. The displaced supercells from which the DFT bands come are not among them. Every
# potential first finds its own lattice constant and thickness; then
#
# .. code-block:: python
#
#     bands = phonon_bands(layer, calculator, supercell=(4, 4, 1), dimension=2, path="GMKG")
#     bands = bands.against(load_phonons("phonopy_params.yaml", path="GMKG"))
#     print(bands.errors.mae, bands.errors.mae_matched)
#
# in the same supercell as DFT, with the forces of the undisplaced cell subtracted on both sides.
# What is stored are the forces in phonopy's own files, so the bands below and their errors are
# computed while the page is built.

import gallery
import numpy as np
import potentials

from properties import load_phonons
from properties.plot_phonons import phonon_bands
from systems import get_system
from systems.dft.mos2_phonons import phonons
from systems.dft.mos2_references import best_force_set

page = gallery.Page("mos2_bands")
MODES = ("E''", "E'", "A1'", "A2''")


def keep(name, checkpoint):
    """Compute the bands of a potential and store them."""
    calculator = potentials.FineTunedCalculator(checkpoint)
    found = get_system("mos2").compute("phonons", calculator)
    # Forces alone: they are a tenth of the file, and force constants follow from them.
    found.phonon.save(
        page.path(f"{name}.yaml"), settings={"force_sets": True, "force_constants": False}
    )
    lattice = get_system("mos2").compute("lattice", calculator).quantities("model")
    page.save(
        name,
        {
            **potentials.summary("mos2", checkpoint),
            "a0_A": lattice["a0"].value,
            "gamma_modes_THz": dict(found.gamma_modes),
            "lowest_frequency_THz": found.lowest_frequency,
            "acoustic_at_gamma_THz": {
                "raw": found.acoustic.raw,
                "corrected": found.acoustic.corrected,
            },
        },
    )


NAMES = {"zero-shot": "zero_shot", "adam": "adam", "adam + L-BFGS": "lbfgs", "adam + LM": "lm"}
if page.computing:
    epochs, evaluations = page.pick(compute=(60, 100), full=(400, 400))
    tuned = potentials.fine_tuned("mos2", "adam", epochs)
    keep("zero_shot", "seed")
    keep("adam", tuned)
    for method in potentials.METHODS:
        keep(method, potentials.refined("mos2", tuned, method, evaluations))

# %%
# The bands
# ---------

about = {name: page.load(file) for name, file in NAMES.items()}
name, force_set = best_force_set()
reference = load_phonons(phonons(force_set), dimension=2, path="GMKG")
models = {
    name: load_phonons(page.folder / f"{file}.yaml", dimension=2, path="GMKG").against(reference)
    for name, file in NAMES.items()
}
cutoff = float(force_set.provenance["cutoff_Ry"])
print(f"DFT: {name.split('_')[0]} supercell, {cutoff:g} Ry\n")
frames = about["adam"]["frames"]
print(f"frames: {frames['train']} to train on, {frames['valid']} to validate\n")
figure = phonon_bands(
    {name: models[name] for name in ("zero-shot", "adam", "adam + LM")}, reference
)
gallery.show(figure, "mos2_bands")

# %%
# Errors along the path
# ---------------------
# The mean absolute error over the nine branches at each q. On the left the branches of both are
# sorted by frequency, which is what is usually done and understates the error where branches cross;
# on the right each branch is compared with the one that it resembles by its eigenvector, and the
# curve jumps where the pairing changes.

figure, axes = gallery.subplots(1, 2, height=3.2, sharey=True)
colors = (gallery.BLUE, gallery.VERMILION, gallery.GREEN, gallery.PURPLE)
styles = ("-", "-", "--", "-.")
for (name, found), color, style in zip(models.items(), colors, styles, strict=True):
    errors = found.errors
    axes[0, 0].plot(errors.x, errors.pointwise, color=color, ls=style, label=name)
    axes[0, 1].plot(errors.x, errors.pointwise_matched, color=color, ls=style)
for panel, title in zip(axes[0], ("sorted", "matched by eigenvector"), strict=True):
    places, labels = zip(*reference.path.ticks, strict=True)
    panel.set_xticks(places, [r"$\Gamma$" if one == "G" else one for one in labels])
    panel.set_xlim(0.0, 1.0)
    panel.set_ylim(bottom=0.0)
    panel.set_title(title)
axes[0, 0].set_ylabel("mean absolute error (THz)")
gallery.legend_above(figure, axes)
gallery.show(figure, "mos2_band_errors")

# %%
# The numbers
# -----------
# Averages along the path in THz, weighted by its length; the optical modes at Gamma in THz (E' and
# E'' are degenerate); the lowest frequency anywhere, where a negative one is imaginary. The flat
# branch of a layer is quadratic at Gamma, so that a few hundredths below zero close to Gamma are
# numerical noise and no instability. The experiments are Raman scattering, that of few layers for
# the two modes that a single layer does not show; DFT lies up to 3 % below them.

measured = {
    one.name.removeprefix("frequency_Gamma_"): one.value
    for one in get_system("mos2").all_references()
    if one.label == "experiment"
}
head = f"{'':16}{'MAE':>8}{'matched':>9}{'bias':>8}"
head += "".join(f"{mode:>8}" for mode in MODES) + f"{'lowest':>8}"
print(head)
rows = {
    "DFT": ["", "", ""],
    **{
        name: [f"{x:.3f}" for x in (e.mae, e.mae_matched, e.mean_error)]
        for name, e in ((name, found.errors) for name, found in models.items())
    },
}
for name, (mae, matched, bias) in rows.items():
    found = reference if name == "DFT" else models[name]
    modes = [f"{found.gamma_modes[mode]:8.2f}" for mode in MODES]
    print(f"{name:16}{mae:>8}{matched:>9}{bias:>8}" + "".join(modes), end="")
    print(f"{found.lowest_frequency:8.2f}")
print(f"{'experiment':41}" + "".join(f"{measured[mode].value:8.2f}" for mode in MODES))
print()
for source in dict.fromkeys(one.source for one in measured.values()):
    modes = ", ".join(mode for mode in MODES if measured[mode].source == source)
    print(f"{modes}: {source}")
print()
for name, one in about.items():
    rmse = one["force_rmse_meV_per_A"]
    verdict = {None: "", True: "accepted", False: "not accepted: these are the fine-tuned weights"}
    print(
        f"{name:16} force RMSE test_id {rmse['test_id']:6.1f}, test_ood {rmse['test_ood']:6.1f} "
        f"meV/A  {verdict[one.get('accepted')]}"
    )

# %%
# What one sees
# -------------
# Where each potential errs most:

for name, found in models.items():
    errors = found.errors
    worst = float(errors.x[np.argmax(errors.pointwise)])
    print(
        f"{name:16} largest mean error {errors.pointwise.max():.3f} THz at {worst:.2f} of the path"
    )

# %%
# Mind the sizes: the validation set that decides whether a refinement is accepted is small (above),
# and one training seed was run. The comparison is with DFT in the same supercell, so neither knows
# of force constants beyond it, and the splitting of longitudinal and transverse optical modes,
# which in a layer vanishes at Gamma but not next to it, is in neither.
