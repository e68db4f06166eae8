"""Runs of every family, made once."""

import functools

import pytest
from support.families import family_run

import vpeft


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory):
    """The folder of a run of a kind (``support.families.RECIPES``)."""
    root = tmp_path_factory.mktemp("families")
    return functools.cache(lambda kind: family_run(root, kind))


@pytest.fixture(scope="session")
def opened(folder_of):
    """The same, opened to predict."""
    return functools.cache(lambda kind: vpeft.load(folder_of(kind), device="cpu"))


@pytest.fixture(scope="session")
def digits(folder_of, tmp_path_factory):
    """The test images of the run of classes as files."""
    from PIL import Image

    from vpeft.core.trained.run import open_run

    data = open_run(folder_of("classes")).dataset()
    folder = tmp_path_factory.mktemp("digits")
    for i in range(len(data)):
        Image.fromarray(data.get_data_info(i)["img"][..., ::-1]).save(folder / f"{i}.png")
    return folder
