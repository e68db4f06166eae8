"""Small folders of a user's own data: pictures of coloured shapes, with labels, boxes, masks, maps or as clips."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"blue": (40, 60, 220), "green": (30, 200, 60), "red": (220, 40, 40)}


def picture(number: int, colour: str, size=(48, 40)) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """RGB pixels with one square of a colour, and its box ``x, y, width, height``."""
    rng = np.random.default_rng([number, *COLOURS[colour]])
    image = rng.integers(0, 90, (size[1], size[0], 3)).astype(np.uint8)
    side = int(rng.integers(14, 22))
    x, y = int(rng.integers(0, size[0] - side)), int(rng.integers(0, size[1] - side))
    image[y : y + side, x : x + side] = np.clip(np.array(COLOURS[colour]) + rng.integers(-20, 20, 3), 0, 255)
    return image, (x, y, side, side)


def save(path: Path, pixels: np.ndarray, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def class_folder(root: Path, each: int = 8, colours=tuple(COLOURS), start: int = 0) -> Path:
    """``root/<colour>/<number>.png``."""
    for colour in colours:
        for number in range(start, start + each):
            save(root / colour / f"{number:03d}.png", picture(number, colour)[0])
    return root


def mixed_folder(root: Path) -> Path:
    """60 images of three classes: JPEG, PNG, grey, RGBA, of 16 bits, turned by EXIF, of a palette, and one broken."""
    for colour in COLOURS:
        for number in range(20):
            pixels, _ = picture(number, colour)
            save(root / colour / f"photo {number}.jpg", pixels, quality=92)
    red = root / "red"
    for number in range(4):
        Image.open(red / f"photo {number}.jpg").convert("L").save(red / f"photo {number}.jpg")
    Image.open(red / "photo 4.jpg").convert("RGBA").save(red / "photo 4.png")
    (red / "photo 4.jpg").unlink()
    deep = np.asarray(Image.open(red / "photo 5.jpg").convert("L")).astype(np.uint16) * 257
    Image.fromarray(deep).save(red / "photo 5.png")
    (red / "photo 5.jpg").unlink()
    turned = Image.open(red / "photo 6.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(red / "photo 6.jpg", exif=exif)
    Image.open(red / "photo 7.jpg").quantize(16).save(red / "photo 7.png")
    (red / "photo 7.jpg").unlink()
    broken = root / "green" / "photo 3.jpg"
    broken.write_bytes(broken.read_bytes()[:300])
    return root


def csv_file(root: Path, each: int = 6) -> Path:
    """``root/labels.csv`` of images with one or two colours, several labels in a cell."""
    rows, names = ["path,labels"], list(COLOURS)
    for number in range(3 * each):
        one, two = names[number % 3], names[(number // 3) % 3]
        pixels = picture(number, one)[0]
        pixels[:, 24:] = picture(number + 100, two)[0][:, 24:]
        save(root / "pictures" / f"{number}.png", pixels)
        rows.append(f"pictures/{number}.png,{'|'.join(dict.fromkeys((one, two)))}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    return root / "labels.csv"


def coco(root: Path, each: int = 6, masks: bool = False, colours=("red", "blue"), size=(64, 64)) -> Path:
    """``root/instances.json`` beside ``root/images``: one object an image."""
    images, annotations = [], []
    for number in range(each * len(colours)):
        label = number % len(colours)
        pixels, (x, y, w, h) = picture(number, colours[label], size)
        save(root / "images" / f"{number}.png", pixels)
        images.append({"id": number, "file_name": f"{number}.png", "width": size[0], "height": size[1]})
        outline = [[x, y, x + w, y, x + w, y + h, x, y + h]] if masks else []
        box = [x, y, w, h]
        annotations.append(
            {"id": number, "image_id": number, "category_id": label + 1, "bbox": box, "area": w * h, "iscrowd": 0}
            | ({"segmentation": outline} if masks else {})
        )
    categories = [{"id": i + 1, "name": colour} for i, colour in enumerate(colours)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "instances.json").write_text(json.dumps(content))
    return root / "instances.json"


def yolo(root: Path, each: int = 6, outlines: bool = False, colours=("red", "blue"), size=(64, 64)) -> Path:
    """``images/`` and ``labels/`` with train and val, and ``data.yaml``."""
    for number in range(each * len(colours)):
        label, part = number % len(colours), "val" if number >= each * len(colours) * 2 // 3 else "train"
        pixels, (x, y, w, h) = picture(number, colours[label], size)
        save(root / "images" / part / f"{number}.png", pixels)
        text = root / "labels" / part / f"{number}.txt"
        text.parent.mkdir(parents=True, exist_ok=True)
        corners = (x, y, x + w, y, x + w, y + h, x, y + h)
        numbers = corners if outlines else (x + w / 2, y + h / 2, w, h)
        shares = [value / size[i % 2] for i, value in enumerate(numbers)]
        text.write_text(f"{label} {' '.join(f'{share:.6f}' for share in shares)}\n")
    (root / "data.yaml").write_text(f"names: [{', '.join(colours)}]\ntrain: images/train\nval: images/val\n")
    return root


def maps(root: Path, number: int = 12, colours=("red", "blue"), size=(64, 64)) -> Path:
    """``images/``, ``masks/`` and ``classes.txt``."""
    for index in range(number):
        label = index % len(colours)
        pixels, (x, y, w, h) = picture(index, colours[label], size)
        save(root / "images" / f"{index}.jpg", pixels, quality=95)
        label_map = np.zeros(size[::-1], np.uint8)
        label_map[y : y + h, x : x + w] = label + 1
        save(root / "masks" / f"{index}.png", label_map)
    (root / "classes.txt").write_text("\n".join(("ground", *colours)) + "\n")
    return root


def frames(root: Path, each: int = 6, count: int = 12) -> Path:
    """``root/<left|right>/<clip>/<frame>.png``: a square that moves."""
    for label, step in (("left", -2), ("right", 2)):
        for number in range(each):
            rng = np.random.default_rng([number, label == "left"])
            x, y = 16 - step * count // 2 + int(rng.integers(-3, 4)), int(rng.integers(2, 18))
            for frame in range(count):
                pixels = rng.integers(0, 60, (32, 40, 3)).astype(np.uint8)
                at = int(np.clip(x + step * frame, 0, 30))
                pixels[y : y + 10, at : at + 10] = 230
                save(root / label / f"clip{number}" / f"{frame:03d}.png", pixels)
    return root


def videos(root: Path, each: int = 6) -> Path:
    """``root/<left|right>/<clip>.mp4`` of the same squares."""
    import av

    frames(root / "frames", each)
    for clip in sorted((root / "frames").glob("*/*")):
        path = root / "clips" / clip.parent.name / f"{clip.name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mpeg4", rate=12)
            stream.width, stream.height = 40, 32
            for file in sorted(clip.iterdir()):
                frame = av.VideoFrame.from_ndarray(np.asarray(Image.open(file)), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    return root / "clips"
