"""Colours where the heat is, and the picture beneath them."""

import numpy as np
import torch
from PIL import Image

from lab.analysis.heatmaps import overlay

GREY = Image.new("RGB", (12, 8), (120, 120, 120))


def heat_on_the_left():
    heat = torch.zeros(8, 12)
    heat[:, :6] = 0.3
    return heat


def test_hot_and_cold_get_the_ends_of_the_colormap():
    array = np.asarray(overlay(GREY, heat_on_the_left(), opacity=1.0))
    assert tuple(array[0, 0]) == (122, 4, 2) and tuple(array[0, 11]) == (48, 18, 59)  # turbo's ends


def test_one_scale_for_several_maps():
    weak, strong = heat_on_the_left() / 2, heat_on_the_left()
    assert overlay(GREY, weak) == overlay(GREY, strong)
    assert overlay(GREY, weak, high=0.3) != overlay(GREY, strong, high=0.3)


def test_nothing_to_see_leaves_an_even_colour():
    array = np.asarray(overlay(GREY, torch.zeros(8, 12)))
    assert (array == array[0, 0]).all()


def test_without_opacity_the_picture_stays():
    assert overlay(GREY, heat_on_the_left(), opacity=0.0) == GREY
