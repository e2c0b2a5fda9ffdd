"""Your own pictures: a folder for each class, a search, a retraining, and what the network says of a picture.

    python examples/own_pictures.py --pictures PATH    # PATH/cat/001.jpg, PATH/dog/001.jpg, ...

Without --pictures it draws some. The same from the command line, in four lines:

    archgrad search --data folder:PATH --space tiny --epochs 20 --alphas-learning-rate 0.02 --out runs/search
    archgrad retrain --arch runs/search --epochs 30 --batch-size 32 --cutout 0 --drop-path 0 --out runs/retrain
    archgrad predict runs/retrain PATH/cat/001.jpg
    archgrad report runs/search runs/retrain
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import archgrad as ag


def draw_pictures(folder: Path, *, each: int = 120, size: int = 24) -> None:
    """Draw pale discs, squares and triangles of any size and place into folder/disc, folder/square, folder/triangle."""
    random = np.random.default_rng(0)
    for corners, shape in ((48, "disc"), (4, "square"), (3, "triangle")):
        (folder / shape).mkdir(parents=True, exist_ok=True)
        for number in range(each):
            picture = Image.fromarray(random.integers(0, 140, (size, size, 3), dtype=np.uint8))
            radius, colour = int(random.integers(5, 9)), tuple(random.integers(110, 250, 3).tolist())
            circle, turn = (*random.integers(radius, size - radius, 2).tolist(), radius), int(random.integers(360))
            ImageDraw.Draw(picture).regular_polygon(circle, corners, rotation=turn, fill=colour)
            picture.save(folder / shape / f"{number:03}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, help="folder with one folder of pictures a class; drawn if not given")
    parser.add_argument("--out", type=Path, default=Path("runs/pictures"), help="folder of the runs")
    parser.add_argument("--epochs", type=int, default=20, help="of the search, and of the retraining")
    options = parser.parse_args()

    folder = options.pictures or options.out / "drawn"
    if options.pictures is None:
        draw_pictures(folder)
    data = ag.data.load(f"folder:{folder}")
    print(f"{len(data.train)} training and {len(data.test)} test pictures of {', '.join(data.classes)}")

    space = ag.spaces.tiny(channels=16, num_classes=len(data.classes), in_channels=data.channels)
    found = ag.search(
        space,
        data,
        epochs=options.epochs,
        batch_size=32,
        alphas_learning_rate=0.02,
        run_dir=options.out / "search",
        overwrite=True,
    )
    print(found)

    trained = ag.retrain(
        ag.derive(space, found),
        data,
        architecture=found.architecture,
        epochs=options.epochs,
        batch_size=32,
        cutout=0,
        drop_path=0,
        run_dir=options.out / "retrain",
        overwrite=True,
    )
    print(f"Test accuracy: {trained.test_accuracy:.1%}")

    picture = next(path for path in sorted(folder.rglob("*")) if path.is_file())
    [said] = ag.export.predict(options.out / "retrain", [picture], space=space)
    print(f"{picture}: {said.classes[0]} ({said.probabilities[0]:.0%})")
    report = ag.write_report([options.out / "search", options.out / "retrain"], out=options.out / "report.html")
    print(f"Report: {report}")


if __name__ == "__main__":
    main()
