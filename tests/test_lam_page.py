"""The card as page and table: one file that asks nothing of the network and hides nothing that was measured."""

import dataclasses
import html
import re

import numpy as np
import pytest

from lam.baselines import PooledFlow
from lam.card import Card, Entrant, make_card
from lam.label_curve import Spread
from lam.label_free import label_free
from scripts.card_table import print_card
from scripts.card_words import METRICS, spread, written
from scripts.lam_page import card_page
from scripts.lam_pictures import Film, films
from scripts.page_plots import Cell, Line, beside, heat_table, line_plot
from tests.moving_hand import SIZE, Tracker, hand_set, plain_set


class Mute(Tracker):
    name = "mute"
    decodes = False


@pytest.fixture(scope="module")
def card() -> Card:
    flow = PooledFlow(size=(SIZE, SIZE), stabilised=True)
    data, plain = hand_set(4, frames=9), plain_set(4, frames=9)
    entrants = [Entrant(Tracker(), "model", (data, plain), data, {1.0: data, 4.0: data})]
    entrants += [Entrant(flow, "baseline", (data, plain), data, {1.0: data, 4.0: data})]
    measured = make_card(entrants, gap_seconds=0.1, seed=0, fast=True, label_free_pairs=24)
    curve = {8: Spread(0.9, 0.8, 1.2), 16: Spread(0.4, 0.3, 0.6)}
    needed = {"0.9": 8.0, "0.5": 14.3, "0.25": None}
    first = measured.sets[0]
    subjects = tuple(dataclasses.replace(found, label_curve=curve, labels_needed=needed) for found in first.subjects)
    first = dataclasses.replace(first, subjects=subjects, supervised=curve, supervised_needed=needed)
    return dataclasses.replace(measured, sets=(first, measured.sets[1]))


@pytest.fixture(scope="module")
def shown() -> tuple[Film, ...]:
    data = hand_set(4, frames=9)
    return films(Tracker(), data, label_free(Tracker(), data.sequences, seed=0, pairs=24).gains)


def test_the_page_is_one_file_with_everything_in_it(card: Card, shown: tuple[Film, ...]) -> None:
    page = card_page(card, shown)
    assert "http" not in page and "<script" not in page and "@import" not in page
    assert len(page) < 5e6
    assert page.count("data:image/webp;base64,") == len(shown) == 6
    for metric in METRICS:
        assert html.escape(metric.title) in page and html.escape(metric.good) in page
    for group in ("hand", "frame t alone", "chance", "tracker beyond frame t"):
        assert group in page
    for heading in ("labelled pairs", "dimensions", "alpha", "nuisance", "Controls on", "Action transfer", "SHA-256"):
        assert heading in page
    assert html.escape(card.verdict) in page
    assert "<td>14</td>" in page and "<td>never</td>" in page, "labels needed"
    assert "nan" not in re.sub(r"base64,[\w+/=]+", "", page).lower()


def test_the_page_says_which_block_each_clip_is_made_of(card: Card) -> None:
    data = card.sets[0]
    measured = dataclasses.replace(data.subjects[0].label_free, shares={"walk.mp4": {"act": 0.12, "cam": 0.93}})
    subject = dataclasses.replace(data.subjects[0], label_free=measured)
    page = card_page(dataclasses.replace(card, sets=(dataclasses.replace(data, subjects=(subject,)),)), ())
    assert re.search(r"walk\.mp4.*?0\.12.*?0\.93", page, re.DOTALL)
    assert "What each clip is made of" not in card_page(card, ()), "the tracker's code has one block"


def test_a_model_without_decoder_says_why_there_are_no_films(card: Card) -> None:
    data = plain_set(4, frames=9)
    mute = make_card([Entrant(Mute(), "model", (data,))], gap_seconds=0.1, seed=0, fast=True, label_free_pairs=24)
    assert films(Mute(), data, mute.sets[0].subjects[0].label_free.gains) == ()
    page = card_page(mute, ())
    assert "No films: mute has no decoder" in page and "data:image" not in page
    assert "no probe is possible" in page


def test_disorder_stands_on_page_and_table(card: Card, capsys: pytest.CaptureFixture[str]) -> None:
    check = dataclasses.replace(card.sets[0].controls[0], ok=False)
    data = dataclasses.replace(card.sets[0], controls=(check, *card.sets[0].controls[1:]), ranking=())
    broken = dataclasses.replace(card, sets=(data,))
    assert "Nothing is ranked on this set" in card_page(broken, ())
    print_card(broken)
    assert "Controls in the wrong order: shuffle_gap. Nothing is ranked." in capsys.readouterr().out


def test_the_table_fits_in_100_columns(card: Card, capsys: pytest.CaptureFixture[str]) -> None:
    print_card(card)
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 100
    for word in ("PSNR, own action", "tracker", "stabilised flow", "beyond t", "supervised on frames", "hands"):
        assert word in printed


def test_names_are_escaped(card: Card) -> None:
    data = dataclasses.replace(card.sets[0], name="<b>&[red]")
    page = card_page(dataclasses.replace(card, sets=(data,)), ())
    assert "<b>&[red]" not in page and "&lt;b&gt;&amp;[red]" in page
    print_card(dataclasses.replace(card, sets=(data,)))


def test_films_show_frames_in_their_panels(shown: tuple[Film, ...]) -> None:
    """The tracker is right, so its prediction is the next frame and its error black."""
    film = next(film for film in shown if not film.transfer)
    clip = next(c for c in hand_set(4, frames=9).sequences if c.clip in film.title)
    assert film.frames.shape[0] == 8
    width, scale = (film.frames.shape[2] - 3 * 2) // 4, film.frames.shape[1] // SIZE
    panels = [film.frames[:, ::scale, place * (width + 2) : place * (width + 2) + width : scale] for place in range(4)]
    assert (panels[0] == clip.frames[:-1]).all() and (panels[1] == clip.frames[1:]).all()
    assert panels[3].mean() < 40


def test_transfer_carries_the_motion_over(shown: tuple[Film, ...]) -> None:
    film = next(film for film in shown if film.transfer)
    assert film.panels == ("A, real", "A's actions on A", "A's actions on B", "B, first frame")
    width, scale = (film.frames.shape[2] - 3 * 2) // 4, film.frames.shape[1] // SIZE
    a, own, moved, still = (
        film.frames[:, ::scale, place * (width + 2) : place * (width + 2) + width : scale] for place in range(4)
    )
    place = Tracker().place
    assert (place(a) == place(own)).all()
    assert (np.diff(place(moved), axis=0) == np.diff(place(a), axis=0)).all(1).mean() > 0.5
    assert (still == still[0]).all()


def test_plots_put_values_where_they_belong() -> None:
    svg = line_plot([Line("a", [8, 32], [0.0, 1.0])], x_label="n", y_label="v", log_x=True, y_limits=(0, 1))
    points = re.search(r'polyline points="([\d., ]+)"', svg)
    assert points
    (x0, y0), (x1, y1) = (tuple(map(float, pair.split(","))) for pair in points[1].split())
    assert x0 < x1 and y0 > y1
    with pytest.raises(ValueError, match="at least one line"):
        line_plot([], x_label="", y_label="", y_limits=(0, 1))
    table = heat_table(["c"], [("r", [Cell("0.9", 0.9), None])])
    assert "color:#fff" in table and "<td>–</td>" in table


def test_panels_keep_their_shape() -> None:
    large = np.zeros((2, 240, 320, 3), np.uint8)
    assert beside([large, large], height=112).shape == (2, 112, 2 * 149 + 2, 3)
    small = np.zeros((2, 24, 32, 3), np.uint8)
    assert beside([small], height=112).shape == (2, 120, 160, 3)


def test_numbers_are_written_for_people() -> None:
    assert written(-0.001, "{:.2f}") == "0.00" and written(-1.0, "{:.2f}") == "-1.00"
    assert written(None, "{:.2f}") == "–" and spread(None, "{:.2f}") == ""
