"""Everything of the synthetic chest but lungs: table, wall, bones, mediastinum with heart and vessels, abdomen.

Shapes are invented, sizes are those of an adult; heart and stomach lie on the left and the liver on the right, so
that a mirrored picture is seen. Densities in HU are those of a chest without contrast medium.
"""

from __future__ import annotations

import numpy as np

from pipeline.phantom_grid import Canvas, Floats, Point, Slab, Structure, Tube
from pipeline.phantom_lungs import MIDDLE_MM, dome, narrowing

AIR, FAT, MUSCLE, BLOOD, LIVER = -1000.0, -100.0, 50.0, 42.0, 58.0
CORTEX, MARROW, CARTILAGE = 480.0, 110.0, 90.0
VERTEBRA_MM, RIB_MM = 25.0, 24.0  # from one to the next
CHEST_MM = 105.0  # mean radius of the rib cage at its widest
CARINA: Point = (2.0, 12.0, 178.0)
WALL_MM = 1.6

# The main airways are not lung; what follows them inside is.
MAIN_AIRWAYS = (
    Tube((2.0, 0.0, 312.0), CARINA, (9.0, 9.0)),
    Tube(CARINA, (-34.0, 16.0, 154.0), (7.5, 6.5)),
    Tube(CARINA, (44.0, 20.0, 152.0), (6.5, 6.0)),
)
AORTA = (
    Tube((4.0, -18.0, 134.0), (-10.0, -24.0, 182.0), (15.5, 15.0)),
    Tube((-10.0, -24.0, 182.0), (2.0, -8.0, 206.0), (15.0, 14.0)),
    Tube((2.0, -8.0, 206.0), (22.0, 32.0, 204.0), (14.0, 12.5)),
    Tube((22.0, 32.0, 204.0), (24.0, 50.0, 186.0), (12.5, 12.0)),
    Tube((24.0, 50.0, 186.0), (14.0, 52.0, -10.0), (12.0, 10.5)),
)
BRANCHES = (  # of the arch, towards the neck
    Tube((-2.0, -8.0, 210.0), (-20.0, -2.0, 310.0), (6.0, 5.0)),
    Tube((8.0, 4.0, 212.0), (18.0, 6.0, 310.0), (4.0, 4.0)),
    Tube((18.0, 22.0, 212.0), (40.0, 10.0, 310.0), (5.0, 5.0)),
)
PULMONARY_ARTERY = (
    Tube((20.0, -40.0, 138.0), (26.0, -14.0, 168.0), (14.5, 14.0)),
    Tube((24.0, -8.0, 168.0), (-36.0, 6.0, 166.0), (11.0, 9.0)),
    Tube((26.0, -12.0, 168.0), (44.0, 18.0, 174.0), (12.0, 10.0)),
)
VENAE_CAVAE = (
    Tube((-23.0, -22.0, 140.0), (-18.0, -12.0, 236.0), (10.0, 9.0)),
    Tube((-18.0, -12.0, 236.0), (-24.0, -24.0, 305.0), (8.0, 7.0)),
    Tube((-18.0, -14.0, 228.0), (34.0, -24.0, 300.0), (7.5, 7.0)),
    Tube((-20.0, 12.0, -10.0), (-18.0, -6.0, 92.0), (12.0, 12.0)),
)
OESOPHAGUS = (
    Tube((0.0, 26.0, 310.0), (4.0, 34.0, 170.0), (6.0, 6.5)),
    Tube((4.0, 34.0, 170.0), (20.0, 30.0, 20.0), (6.5, 7.0)),
)


def paint_wall(canvas: Canvas, wall: Floats) -> None:
    """Table, fat, breasts, muscle and rib cage; the chest within `wall` < 1 stays open."""
    slab = canvas.slab
    _paint_table(canvas)
    for side in (-1.0, 1.0):
        canvas.ellipsoid((side * 76, -92.0, 150.0), (58, 32, 62), Structure.BREAST, FAT)
        canvas.ellipsoid((side * 82, -106.0, 145.0), (30, 11, 28), Structure.BREAST, 10.0)
    shoulders = np.clip((slab.z - 215) / 70, 0, 1) ** 2
    across, deep = (np.asarray(one, np.float32) for one in (161 + 12 * shoulders, 121 - 20 * shoulders))
    canvas.fill(_squircle(slab, across, deep), Structure.SUBCUTANEOUS_FAT, FAT)
    canvas.fill(_squircle(slab, across - 12, deep - 9), Structure.MUSCLE, MUSCLE)
    layers = _squircle(slab, across - 21, deep - 17) & ~_squircle(slab, across - 24, deep - 20)
    canvas.fill(layers & (wall > 1.4), Structure.MUSCLE, -60.0)  # fat between two layers of muscle
    level = slab.z - 0.75 * slab.y + 0.35 * np.abs(slab.x)  # ribs fall from the spine to the side and to the front
    phase = np.abs(level / RIB_MM % 1 - 0.5) * RIB_MM  # mm beside the axis of a rib
    beside = (wall - 1) * (CHEST_MM / 2 * np.sqrt(narrowing(slab)))  # mm from the pleura, roughly
    section = ((beside - 8.5) / 4.2) ** 2 + (phase / 6.0) ** 2
    ribs = (section < 1) & (np.abs(slab.x) > 24) & (slab.z < 285)
    canvas.fill(ribs, Structure.RIBS, CORTEX)
    np.copyto(canvas.hu, np.float32(MARROW), where=ribs & (section < 0.5))
    front = (slab.y < -58) & (np.abs(slab.x) < 78 - 0.1 * slab.z)
    canvas.fill(ribs & front, Structure.COSTAL_CARTILAGE, CARTILAGE)


def paint_bones(canvas: Canvas) -> None:
    """Spine, sternum, shoulder blades and collarbones."""
    slab = canvas.slab
    _paint_spine(canvas)
    plate = (np.abs(slab.y + 0.04 * slab.z + 92) < 6) & (slab.z > 88) & (slab.z < 248)
    width = np.where(slab.z > 205, 24, 15)
    sternum = np.asarray((np.abs(slab.x) < width) & plate)
    canvas.fill(sternum, Structure.STERNUM, CORTEX)
    core = sternum & (np.abs(slab.y + 0.04 * slab.z + 92) < 4) & (np.abs(slab.x) < width - 3)
    np.copyto(canvas.hu, np.float32(130), where=core)
    for side in (-1.0, 1.0):
        clavicle = Tube((side * 20, -88.0, 250.0), (side * 130, -52.0, 284.0), (7.0, 6.0))
        canvas.tube(clavicle, Structure.CLAVICLES, CORTEX)
        canvas.tube(Tube(clavicle.start, clavicle.end, (4.0, 3.0)), Structure.CLAVICLES, MARROW)
        for z in np.arange(160, 276, 6.0):  # the blade: thick borders, a plate between them
            spread = min(1.0, (z - 140) / 60)
            inner = (side * (124 - 40 * spread), 62 + 30 * spread, float(z))
            outer = (side * 128, 58.0 - 10 * spread, float(z))
            canvas.tube(Tube(inner, outer, (3.2, 4.2)), Structure.SCAPULAE, 300.0)
        spine = Tube((side * 92, 98.0, 244.0), (side * 138, 70.0, 266.0), (4.0, 6.0))
        canvas.tube(spine, Structure.SCAPULAE, CORTEX)


def paint_mediastinum(canvas: Canvas) -> None:
    """What parts the lungs, from the sternum to the spine, over the lungs that are already there."""
    slab = canvas.slab
    hilar = 14 + 10 * np.clip((slab.z - 80) / 60, 0, 1) - 4 * np.clip((slab.z - 200) / 60, 0, 1)
    wide = 8 + hilar * np.exp(-(((slab.y - 24) / 40) ** 2))
    inside = canvas.structure >= Structure.RIGHT_UPPER_LOBE
    canvas.fill((np.abs(slab.x - MIDDLE_MM) < wide) & inside, Structure.MEDIASTINAL_FAT, FAT)
    gutter = (slab.x / 25) ** 2 + ((slab.y - 78) / 24) ** 2 < 1  # beside the vertebrae
    canvas.fill(gutter & inside, Structure.MEDIASTINAL_FAT, -20.0)
    heart: tuple[tuple[Point, Point], ...] = (
        ((38.0, -22.0, 102.0), (49.0, 43.0, 54.0)),
        ((14.0, -42.0, 102.0), (44.0, 34.0, 46.0)),
        ((-18.0, -20.0, 114.0), (29.0, 33.0, 38.0)),
        ((4.0, 16.0, 128.0), (36.0, 20.0, 22.0)),
    )
    for centre, radii in heart:
        rim = (radii[0] + 3, radii[1] + 3, radii[2] + 4)
        canvas.ellipsoid(centre, rim, Structure.MEDIASTINAL_FAT, FAT)
    for centre, radii in heart:
        canvas.ellipsoid(centre, radii, Structure.HEART, BLOOD)
    for chamber in (((40.0, -20.0, 102.0), (30.0, 25.0, 34.0)), ((-16.0, -22.0, 112.0), (22.0, 25.0, 28.0))):
        canvas.ellipsoid(*chamber, Structure.HEART, BLOOD - 8)
    groove = Tube((10.0, -68.0, 120.0), (20.0, 20.0, 128.0), (3.5, 3.5))  # fat with the coronary vessels
    canvas.tube(groove, Structure.HEART, -60.0)
    for tubes, structure in (
        (AORTA, Structure.AORTA),
        (BRANCHES, Structure.AORTA),
        (VENAE_CAVAE, Structure.VENAE_CAVAE),
        (PULMONARY_ARTERY, Structure.PULMONARY_ARTERY),
        (OESOPHAGUS, Structure.OESOPHAGUS),
    ):
        for tube in tubes:
            canvas.tube(tube, structure, BLOOD, rim_mm=1.4)
    for tubes, structure in ((AORTA, Structure.AORTA), (PULMONARY_ARTERY, Structure.PULMONARY_ARTERY)):
        for tube in tubes:  # not cut by the fat around a neighbour
            canvas.tube(tube, structure, BLOOD)


def paint_airways(canvas: Canvas) -> None:
    """Trachea and main bronchi with their walls."""
    for tube in MAIN_AIRWAYS:
        canvas.tube(tube.wider(WALL_MM), Structure.AIRWAY_WALL, MUSCLE)
    for tube in MAIN_AIRWAYS:
        canvas.tube(tube, Structure.TRACHEA, AIR)


def paint_abdomen(canvas: Canvas, wall: Floats) -> None:
    """Below the diaphragm: liver on the right, a stomach with gas and the spleen on the left, fat between them."""
    slab = canvas.slab
    height = dome(slab)
    below = (slab.z < height) & (wall < 1)
    canvas.fill(below, Structure.ABDOMINAL_FAT, FAT + 5)
    canvas.fill(below & (slab.x < 24 - 0.2 * slab.y) & (slab.y < 86 - 0.1 * np.abs(slab.x)), Structure.LIVER, LIVER)
    canvas.fill(below & (slab.z > height - 5), Structure.MUSCLE, MUSCLE)
    for start, end in (((-20.0, 0.0, 30.0), (-90.0, -20.0, 40.0)), ((-30.0, 10.0, 20.0), (-80.0, 40.0, 50.0))):
        vein = Tube(start, end, (5.0, 2.5))
        canvas.tube(vein, Structure.LIVER, 38.0, within=canvas.structure == Structure.LIVER)
    inside = below & (slab.z < height - 5)
    behind = slab.y + 0.4 * (slab.x - 70) > 18
    canvas.fill(inside & (slab.x > 34) & behind, Structure.SPLEEN, 48.0)
    canvas.fill(inside & (slab.x > 30 - 0.2 * slab.y) & ~behind, Structure.STOMACH, 38.0)
    gas = (slab.ball((66.0, -25.0, 17.0), (32.0, 25.0, 23.0)) < 1) & (slab.y < -24)
    canvas.fill(gas & inside, Structure.STOMACH_GAS, AIR)
    _paint_descending(canvas)


def _paint_descending(canvas: Canvas) -> None:
    """Aorta, vena cava and oesophagus behind and below the diaphragm."""
    for tube, structure in (
        (AORTA[-1], Structure.AORTA),
        (VENAE_CAVAE[-1], Structure.VENAE_CAVAE),
        (OESOPHAGUS[-1], Structure.OESOPHAGUS),
    ):
        canvas.tube(tube, structure, BLOOD)


def _squircle(slab: Slab, across: Floats, deep: Floats) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Inside of a flattened circle whose half axes may change along z."""
    x, y = (slab.x / across) ** 2, ((slab.y - 3) / deep) ** 2
    return np.asarray(x + y - np.float32(0.45) * x * y < 1)


def _paint_table(canvas: Canvas) -> None:
    """A hollow cradle: two curved boards with foam between them."""
    slab = canvas.slab
    under = slab.y + 8 * (slab.x / 150) ** 2 - 129
    wide = np.abs(slab.x) < 168
    canvas.fill(np.asarray((under > 0) & (under < 14) & wide), Structure.TABLE, -950.0)
    boards = ((under > 0) & (under < 2.5)) | ((under > 12) & (under < 14))
    canvas.fill(np.asarray(boards & wide), Structure.TABLE, 60.0)


def _paint_spine(canvas: Canvas) -> None:
    """Vertebral bodies with discs between them, the canal, arches and processes."""
    slab = canvas.slab
    level = slab.z / VERTEBRA_MM % 1
    section = (slab.x / 18) ** 2 + ((slab.y - 76) / 15) ** 2
    body = np.broadcast_to(section < 1, slab.shape)
    canvas.fill(body, Structure.VERTEBRAE, CORTEX)
    disc = body & (level < 0.16)
    np.copyto(canvas.hu, np.float32(MARROW + 20), where=body & (section < 0.78) & ~disc)
    np.copyto(canvas.hu, np.float32(85), where=disc)
    arch = (slab.x / 16) ** 2 + ((slab.y - 99) / 13) ** 2 < 1
    processes = (np.abs(slab.y - 98 + 0.0 * slab.x) < 5) & (np.abs(slab.x) < 32) & (level > 0.5) & (level < 0.85)
    spinous = (np.abs(slab.x) < 3.5) & (slab.y > 104) & (slab.y < 118) & (level < 0.6)
    for part in (arch & (level > 0.2), processes, spinous):
        canvas.fill(np.asarray(part), Structure.VERTEBRAE, 380.0)
    canal = np.asarray((slab.x / 10) ** 2 + ((slab.y - 97) / 8) ** 2 < 1)
    canvas.fill(canal, Structure.SPINAL_CANAL, 25.0)
