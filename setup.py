"""Installation of V-PEFT Bench."""

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

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


class WithConfigs(build_py):
    """The configs travel in the wheel, where OpenMMLab's packages have theirs; ``vpeft::<name>`` finds them there."""

    def run(self) -> None:
        """Copy them too, where files are copied at all: an installation in place finds them in the repository."""
        super().run()
        if self.editable_mode:
            return
        beside = Path(self.build_lib) / "vpeft" / ".mim"
        shutil.copytree(
            HERE / "configs", beside / "configs", dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__")
        )
        shutil.copy(HERE / "model-index.yml", beside)


EXTRAS = ("dense", "video", "tune", "ray", "slurm", "export", "serve", "tests", "docs", "optional")

setup(
    name="vpeft",
    version="0.1.0",
    description="V-PEFT Bench: parameter-efficient fine-tuning of vision models, every method on every task.",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    author="The V-PEFT Bench authors",
    license="Apache-2.0",
    keywords=["parameter-efficient fine-tuning", "vision transformer", "LoRA", "adapter", "OpenMMLab"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    python_requires=">=3.10",
    packages=find_packages(include=["vpeft", "vpeft.*"]),
    package_data={
        "vpeft": [
            "py.typed",
            "**/*.safetensors",
            "**/*.json",
            "**/*.log",
            "**/*.csv",
            "**/*.html",
            "**/*.css",
            "**/*.js",
        ]
    },
    cmdclass={"build_py": WithConfigs},
    install_requires=requirements("runtime"),
    entry_points={"console_scripts": ["vpeft = vpeft.apis.commands.app:main"]},
    extras_require={name: requirements(name) for name in EXTRAS},
)
