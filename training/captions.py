"""What the page says beside its figures, and the rules that it counts by. White space is as HTML takes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Caption:
    """A figure's name, what it shows and how to read it; `{…}` are numbers."""

    name: str
    what: str
    how: str

    def filled(self, **numbers: str) -> Caption:
        """With its numbers."""
        return Caption(self.name, self.what.format(**numbers), self.how.format(**numbers))


CAPTIONS: Mapping[str, Caption] = {
    "severity": Caption(
        "Figure 2. Severity, pipeline against expert",
        """Each point is a case: the infected share of the lungs as the pipeline measures it, over the share that
        the expert labelled. The right panel enlarges the low end (the box in the left one).""",
        """Points on the dashed line agree; above it the pipeline finds more than the expert. Pearson r = {r}.""",
    ),
    "sweep": Caption(
        "Figure 3. The prior's b₂ and k₂",
        """What the E-step of training (eq. 10 with φ₂, eq. 13) would label as consolidation with this package's
        UNet-2, for a grid of b₂ and k₂. Left: Dice against the expert's pixel labels; cases without consolidation
        get no label. Right: how well the labelled share of the lungs tells cases with from cases without
        consolidation.""",
        """A flat top means that the choice hardly matters. The network is not trained again for each point: this
        is the sensitivity of the labels that training would see, not of its outcome. Never choose b₂ and k₂ on
        the cases that figures are reported for.""",
    ),
    "rates": Caption(
        "Figure 4. Consolidation inside the labelled infection",
        """Each case once per method: the share of its labelled consolidation that was found, over the share of
        its other labelled infection that was called consolidation. The curves are TPR = FPR^γ, fitted by least
        squares, each case weighing the same.""",
        """Upper left is better. The smaller γ, the better; 1 is chance. UNet-2: γ = {unet2}; rival: γ =
        {rival}.""",
    ),
    "overlays": Caption(
        "Figure 5. Examples",
        """Cases from the worst (top) to the best infection Dice at even steps: chosen by rule, not by looks. Of a
        volume, the slice with most labelled infection. Lung window, −1200 to 400 HU; the patient's right is on
        the left.""",
        """Compare the second column with the third and fourth. Red in the second column lies outside the lungs
        that were found, so no network could find it.""",
    ),
    "dilation": Caption(
        "Figure 6. False positives by distance from the labelled consolidation",
        """The share of other labelled infection that was called consolidation, when the expert's consolidation is
        dilated by 0 to 9 pixels, slice by slice; pooled over the cases. One pixel is one of the network's grid:
        the field of view divided by {columns}.""",
        """A steep fall says that false positives hug the border of true consolidation, where experts differ as
        well; a flat line says that they lie elsewhere.""",
    ),
    "boxes": Caption(
        "Figure 7. Consolidation score of cases with and without consolidation",
        """Boxes: median and quartiles, whiskers up to 1.5 box lengths; every case is a point. The axis is linear
        below 0.1 % and logarithmic above. Which group a case belongs to is its image-level label.""",
        """The further apart the boxes, the better a score tells the groups. AUC is the chance that a case with
        consolidation scores higher than one without.""",
    ),
    "bland_altman": Caption(
        "Bland-Altman plot of severity",
        """Each point is a case: pipeline minus expert, over the mean of both, with bias and limits of agreement
        (± 1.96 SD).""",
        """A slope says that the error grows with the disease. About 95 of 100 differences are to be expected
        between the limits, if they are spread normally.""",
    ),
    "bland_altman_consolidation": Caption(
        "Bland-Altman plot of the consolidation score",
        "The same for the consolidated share of the lungs.",
        "",
    ),
}

POLICY = (
    """Dice per case: a case in which neither prediction nor label has a voxel scores 1, one in which only one of
    them has scores 0. “Mean where labelled” leaves out the cases with an empty label. Pooled: all voxels of all
    cases together.""",
    """Labels are not clipped by the lungs: what the lung mask misses costs Dice. The clipped figures stand beside
    them.""",
    """A case in which no lungs are found counts as one in which nothing was found: prediction empty, scores
    0.""",
    """A single slice is shown to the networks as a stack of itself; its scores are shares of the area of that
    slice. Lungs of a single slice need 10 cm², those of a volume 300 ml.""",
    """Infection is every label above 0, consolidation is label 2. A label without a 2 tells “no consolidation”
    where cases.csv says 0, or says nothing while other labels of the cohort hold a 2; else the case counts for
    infection only.""",
    """Reference scores are the labelled share of the reference lung: the lungs that were found and the labelled
    voxels outside them. There is no reference for a case without lungs.""",
    """The rival is the paper's baseline: denser than −200 HU inside the infection that UNet-1 found. Where the
    package leaves out consolidation that covers too little in every slice (consolidation_mm2 in its
    manifest), the rival does not.""",
    """Intervals are 95 % percentile intervals of 4000 bootstrap samples of patients, all cases of a patient
    together. Mann-Whitney takes cases as units, so its p-values do not know which cases share a patient; the
    interval of AUC does.""",
    """If cases of this cohort were used to train the package, these are not held-out figures.""",
)
