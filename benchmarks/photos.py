"""Makes the images of the JPEG row, so that nothing is downloaded: digits in random colours on a noisy background.

train/<class>/*.jpg and test/<class>/*.jpg, 32 × 32 RGB; the same files every time.
"""

from pathlib import Path

SIDE = 32
MEAN, STD = (0.49, 0.5, 0.5), (0.26, 0.26, 0.26)  # of the training images, about; a user writes them down likewise


def make(folder: Path, train: int, test: int) -> None:
    """Writes the first `train` + `test` of scikit-learn's digits, shuffled, enlarged and coloured."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    digits, classes = load_digits(return_X_y=True)
    random = np.random.Generator(np.random.PCG64(0))
    for i, which in enumerate(random.permutation(len(digits))[: train + test]):
        grey = Image.fromarray(np.uint8(digits[which].reshape(8, 8) * 255 / 16))
        ink = np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BICUBIC))[:, :, None] / 255
        colours = random.uniform(0, 255, (2, 3))
        rgb = colours[0] + (colours[1] - colours[0]) * ink + random.normal(0, 16, (SIDE, SIDE, 3))
        where = folder / ("train" if i < train else "test") / str(classes[which])
        where.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.uint8(rgb.clip(0, 255))).save(where / f"{i:04}.jpg", quality=90)
