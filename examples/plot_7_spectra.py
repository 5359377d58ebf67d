r"""
7. Spectra, conditioning and filters
====================================

Why should one optimizer fine-tune better than another? The paper's answer is curvature: an adaptive
optimizer rescales the parameters, so that the loss looks rounder to it, and a second-order stage
rounds it further. This page shows that curvature as it is measured, without a model of it, and then
says how far the answer holds.

The loss of a fine-tuning is a sum of squared residuals, of energies, forces and stresses. With
J the derivative of the residuals by the parameters, the Gauss-Newton matrix is
JᵀJ. An optimizer that steps along −P g sees the eigenvalues of
J P Jᵀ instead. With some hundred residuals this matrix is small, and its
eigenvalues are exact to rounding, although the model has about 100 000 parameters. All
preconditioners P are taken at the *same* weights, those of the seed: otherwise one would
compare where the optimizers went, and not what they see.
"""

# %%
# The stored analyses come from `ase-finetune curvature`, about three minutes per system.
# ``--compute`` repeats them, and ``--full`` takes more residuals and more probes of the Hessian.

import subprocess
import sys

import gallery
import h5py
import matplotlib.ticker as ticker
import numpy as np

from ase_finetune.curvature import figures
from ase_finetune.curvature.files import read_results

page = gallery.Page("spectra")
FOLDER = gallery.RESULTS / "curvature"
SYSTEMS = {"mo": "Mo", "acetylacetone": "acetylacetone"}


def command(system):
    """Return the command that makes the analysis of a system."""
    sizes = page.pick("", " --rows 900 --probes 8 --lanczos 48")
    return f"ase-finetune curvature seed --system {system}{sizes}"


if page.computing:
    for system in SYSTEMS:
        arguments = command(system).split()[1:]
        out = ["--out", str(FOLDER / system), "--overwrite"]
        subprocess.run([sys.executable, "-m", "ase_finetune.cli", *arguments, *out], check=True)


def load(folder, made_by):
    """Return the first view of an analysis, with the curves of each optimizer."""
    view = gallery.read_json(folder / "curvature.json", made_by)["views"][0]
    rank = view["rows"] - view["invisible_rows"]
    with h5py.File(folder / "curvature.h5") as file:
        for name, found in view["optimizers"].items():
            group = file[f"view_0/{name}"]
            for key in ("eigenvalues", "filter", "residual_shares"):
                found[key] = group[key][:rank]
            found["properties"] = {k: v[:] for k, v in group["properties"].items()}
    return view


views = {system: load(FOLDER / system, command(system)) for system in SYSTEMS}
for system, view in views.items():
    print(
        f"{SYSTEMS[system]}: {view['frames']} frames, {view['rows']} residuals, of which "
        f"{view['rows'] - view['invisible_rows']} have visible curvature; "
        f"{view['parameters']} parameters"
    )

# %%
# Residuals without visible curvature are expected: a rigid shift or rotation changes no force, so
# 6 combinations of a molecule's residuals and 3 of a cell's vanish exactly; more fall below
# rounding where a crystal is symmetric.
#
# Spectra
# -------
# Optimizers whose curves coincide share a line. A flat curve would be a round loss.

COLORS = {**gallery.OPTIMIZERS, **gallery.REFINEMENTS}
DASHES = dict(zip(COLORS, ["-", "-", "-", "-", "--", "-.", ":", "-", "-", "--", "-"], strict=True))


def merged(curves):
    """Return (names, curve) with coinciding curves together."""
    groups = []
    for name, curve in curves.items():
        for names, other in groups:
            if np.allclose(curve, other, rtol=1e-3, atol=1e-12):
                names.append(name)
                break
        else:
            groups.append(([name], curve))
    return groups


def draw(axes, curves, **style):
    """Draw curves by rank, in the color of the first optimizer of each group."""
    for names, curve in merged(curves):
        label = ", ".join(gallery.LABELS[name] for name in names)
        first = names[0]
        x = np.arange(1, len(curve) + 1)
        axes.plot(x, curve, color=COLORS[first], ls=DASHES[first], label=label, **style)


figure, axes = gallery.subplots(1, 2, height=4.0)
for one, (system, view) in zip(axes[0], views.items(), strict=True):
    draw(one, {n: o["eigenvalues"] / o["eigenvalues"][0] for n, o in view["optimizers"].items()})
    one.set(xscale="log", yscale="log", title=SYSTEMS[system], xlabel="Rank of eigenvalue")
axes[0, 0].set_ylabel(r"$\lambda_i/\lambda_1$ of $J P J^\mathsf{T}$")
gallery.legend_above(figure, axes[0, 0], columns=3)
gallery.show(figure, "spectra")

# %%
# The loss is anything but round. To every first-order optimizer, half of the visible directions are
# four to seven decades (Mo) or three to four (acetylacetone) softer than the steepest one. Adam,
# AdamW, RAdam and ScheduleFree fall on one line, and they must: at given weights they divide by the
# same root of the same mean of squared gradients. Decoupled decay, rectified warm-up and averaging
# are no preconditioners.
#
# Conditioning
# ------------
# How many decades a preconditioner takes off the ratio of the largest to the median eigenvalue,
# against plain gradient descent (SGD, zero by definition). The bars are 95 % intervals over the
# choice of frames, on which both have the same luck.

figure, axes = gallery.subplots(1, 2, height=3.6, sharey=True)
for one, (system, view) in zip(axes[0], views.items(), strict=True):
    names = sorted(
        view["optimizers"], key=lambda n: view["optimizers"][n]["gains"]["log10_median_ratio"]
    )
    if one is axes[0, 0]:
        order = names
    for y, name in enumerate(order):
        found = view["optimizers"][name]
        gain = found["gains"]["log10_median_ratio"]
        error = found["interval_half_widths"]["gain_log10_median_ratio"]
        one.errorbar(gain, y, xerr=error, fmt="o", color=COLORS[name], capsize=2.5)
    one.set(title=SYSTEMS[system], xlabel="Decades off the median ratio")
    one.set_yticks(range(len(order)), [gallery.LABELS[name] for name in order])
    one.axvline(0.0, color="0.6", lw=0.8, zorder=0)
    one.xaxis.set_major_locator(ticker.MultipleLocator(1.0))
gallery.show(figure, "conditioning")

# %%
# Filters
# -------
# With P frozen, an error along an eigenvector shrinks by a factor that depends only on the
# eigenvalue, the learning rate and the number of steps: the *filter* of the optimizer. This is how
# much of the loss is left after 200 steps, with the default learning rate and with the one that is
# best for each optimizer on this quadratic:

print(f"{'':20s} {'Mo':>24s} {'acetylacetone':>24s}")
print(f"{'left of the loss':20s} " + f"{'default rate':>13s} {'best':>10s} " * 2)
for name in views["mo"]["optimizers"]:
    cells = ""
    for view in views.values():
        found = view["optimizers"][name]
        left = found["loss_left"]
        shown = f"{100 * left:11.2g} %" if left is not None and left < 10 else f"{'diverges':>13s}"
        cells += f"{shown} {100 * found['loss_left_best']:8.2g} % "
    print(f"{gallery.LABELS[name]:20s} {cells}")

# %%
# And this is where it is left, at the default learning rates and for seven of them. What stays at 1
# is not learned; a curve above 1 grows.

SHOWN = ("sgd", "adam", "schedulefree", "muon", "soap", "lbfgs", "lm")
figure, axes = gallery.subplots(1, 2, height=3.8, sharey=True)
for one, (system, view) in zip(axes[0], views.items(), strict=True):
    draw(one, {n: np.abs(view["optimizers"][n]["filter"]) for n in SHOWN})
    one.axhline(1.0, color="0.6", lw=0.8, zorder=0)
    one.set(xscale="log", ylim=(0, 1.2), title=SYSTEMS[system], xlabel="Rank of eigenvalue")
axes[0, 0].set_ylabel(f"Error left after {views['mo']['filter_steps']} steps")
gallery.legend_above(figure, axes[0, 0], columns=4)
gallery.show(figure, "filters")

for system, view in views.items():
    reach = {n: int(np.sum(np.abs(view["optimizers"][n]["filter"]) < 0.5)) for n in SHOWN}
    print(f"{SYSTEMS[system]}: directions in which less than half of the error is left: {reach}")

# %%
# SGD learns the steepest directions only, Adam half as many again (Mo) or twice as many, SOAP more
# still, and Levenberg-Marquardt, which solves the linear problem, most. L-BFGS goes further than
# Adam on Mo and less far on acetylacetone. The softest half of the directions is left as it is by
# all first-order optimizers: 200 steps are few. With its small default rate Muon is as slow as
# SGD, although it sees a rounder loss than Adam; with its best rate it leaves less than Adam does.
# ScheduleFree's curve leaves the figure at the steepest direction: its default rate of 0.003 is
# beyond the limit of stability of the *frozen* quadratic at these weights. In training it need not
# diverge, because the preconditioner follows the gradients and the curvature changes.
#
# Which directions carry the physics?
# -----------------------------------
# A property may depend on other directions than the loss does. Here is how much of the squared
# gradient of each property, and of the loss itself, lies along the leading eigenvectors of the
# unpreconditioned JᵀJ:

figure, axes = gallery.subplots(1, 2, height=3.6, sharey=True)
LOOKS = [
    (gallery.BLUE, "-"),
    (gallery.VERMILION, "--"),
    (gallery.GREEN, "-."),
    (gallery.PURPLE, ":"),
]
for one, (system, view) in zip(axes[0], views.items(), strict=True):
    plain = view["optimizers"]["sgd"]
    for (name, shares), (color, dash) in zip(plain["properties"].items(), LOOKS, strict=False):
        x = np.arange(1, len(shares) + 1)
        one.plot(x, np.cumsum(shares), color=color, ls=dash, label=name)
    shares = np.cumsum(plain["residual_shares"])
    one.plot(np.arange(1, len(shares) + 1), shares, color="black", lw=2.0, label="loss")
    one.set(xscale="log", ylim=(0, 1.02), title=SYSTEMS[system])
    one.set_xlabel("Leading eigenvectors")
    one.legend(loc="lower right")
axes[0, 0].set_ylabel("Cumulative share")
gallery.show(figure, "property_directions")

# %%
# On Mo, elastic constants and the slip barrier hang on the few steepest directions, which every
# optimizer reaches: they can be right long before the loss is small, and better conditioning is not
# needed for them. The strength of the hydrogen bond of acetylacetone, the energy of turning the O-H
# group out of it, is the opposite: most of it lies in soft directions, and a seventh in directions
# that the frames do not determine at all.
#
# Does the explanation hold?
# --------------------------
# **Against SGD, yes.** Every adaptive optimizer sees a rounder loss than SGD on both systems, by
# intervals that exclude zero.
#
# **For AdamW or ScheduleFree against Adam, no.** Their preconditioner is Adam's. Whatever they gain
# comes from decay, averaging or the schedule, and page 1 shows whether they gain anything.
#
# **For the second-order stage, in part.** L-BFGS takes about as much off the condition number as
# SOAP does, and Levenberg-Marquardt much more, so the stage does reach softer directions. But this
# is the training loss. Whether what is learned there helps on other frames is an empirical
# question: see the refined arms of page 1 and the properties of pages 2, 3 and 5.
#
# And there is no single condition number to quote. On Mo the ratio to the *smallest* eigenvalue is
# about 10\ :sup:`14`, at the edge of what double precision resolves. So the median is used here.
#
# After training
# --------------
# The same analysis at the weights where runs of the study ended, one line per folder
# ``examples/results/curvature/study_*``:

trained = sorted(path for path in FOLDER.glob("study_*") if (path / "curvature.json").exists())
if not trained:
    print("None is stored yet: the analyses of trained weights are missing from this page.")
for path in trained:
    for view in gallery.read_json(path / "curvature.json", "ase-finetune curvature")["views"]:
        ratios = {n: o["gauss_newton"]["log10_median_ratio"] for n, o in view["optimizers"].items()}
        shown = ", ".join(f"{gallery.LABELS[n]} {value:.1f}" for n, value in ratios.items())
        print(f"{path.name}, {view['view']}: log10 of largest/median: {shown}")

# %%
# There Adam differs from AdamW for once: the run had a weight decay of 0.01, which in Adam enters
# the gradient and with it the preconditioner.
#
# Does a smaller condition number go with a smaller error? Over the nine optimizers of each study,
# Spearman's rank correlation of log kappa at these weights with the final force error:

for path in trained:
    system = path.name.removeprefix("study_")
    stored = FOLDER.parent / "study" / system / "study.json"
    for one in gallery.read_json(stored, f"ase-finetune study {system}")["curvature"]:
        print(f"{one['condition']}: rho {one['rho']:.2f} [{one['low']:.2f}, {one['high']:.2f}]")

# %%
# In distribution the correlation is positive on all four systems, on acetylacetone by an interval
# that excludes zero, as out of distribution on water on graphene. Among the first-order ones SOAP
# takes the most off kappa, and it is the best on MoS\ :sub:`2`, by far, on water on graphene and on
# acetylacetone; on Mo it depends on the draw of the frames.

# %%
# Before and after refinement
# ---------------------------
# Where is the loss that an optimizer leaves? It is split here by the eigenvalue of the directions
# in which it could still be lowered, for Mo after 40 passes of Adam and after 100 full-batch
# evaluations of Levenberg-Marquardt from there.

REFINED = FOLDER / "refinement_mo"
gallery.read_json(REFINED / "curvature.json", "ase-finetune curvature REFINED --before FINETUNED")
after, before = read_results(REFINED)
gallery.show(figures.refinement(before, after), "refinement_residuals")
for name, view in (("before", before), ("after", after)):
    found = view.residual("sgd")
    print(
        f"{name:6s} loss {view.loss:.2e} in {found.effective_directions:.0f} effective directions, "
        f"{found.soft_half:.0%} of it in the softer half"
    )

# %%
# Adam has emptied the stiffest directions and left nearly all of the loss in the middle of the
# spectrum, between 1e-7 and 1e-2 of the largest eigenvalue. That is where the second-order stage
# takes it out, by a factor of about seven. The stiffest decade, nearly empty before, fills a
# little: the loss shown is that of the mini-batch stage, while the refinement minimized one with
# more weight on energies and stresses. Directions below 1e-8 are as full as before: no method here
# reaches them, and what is left is more evenly spread.
