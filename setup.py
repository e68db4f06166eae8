"""Installation of V-PEFT Bench."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent


def requirements(name: str) -> list[str]:
    """The packages that ``requirements/<name>.txt`` lists, its ``-r`` lines followed."""
    found = []
    for line in (HERE / "requirements" / f"{name}.txt").read_text().splitlines():
        line = line.split("#")[0].strip()
        if line.startswith("-r"):
            found += requirements(Path(line[2:].strip()).stem)
        elif line:
            found.append(line)
    return found


EXTRAS = ("dense", "video", "tune", "ray", "slurm", "export", "tests", "docs", "optional")

setup(
    name="vpeft",
    version="0.1.0",
    description="V-PEFT Bench: parameter-efficient fine-tuning of vision models, every method on every task.",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["vpeft", "vpeft.*"]),
    package_data={
        "vpeft": ["**/*.safetensors", "**/*.json", "**/*.log", "**/*.csv", "**/*.html", "**/*.css", "**/*.js"]
    },
    install_requires=requirements("runtime"),
    entry_points={"console_scripts": ["vpeft = vpeft.apis.commands.app:main"]},
    extras_require={name: requirements(name) for name in EXTRAS},
)
