"""The card of a video model in terminal and page: all numbers, the gates with their limits, films without a network."""

import html
from dataclasses import replace

import pytest

from common.intervals import Interval
from scripts.card_print import gate_text
from scripts.video_page import PANELS, video_page
from scripts.video_table import print_card, tables, verdict
from tests.simulated_hand import Simulator, make_windows
from video_model.evaluate import Film, measure
from video_model.films import VideoSubject
from video_model.scorers import Scorers
from video_model.video_card import Curve, Hand, VideoCard


@pytest.fixture(scope="module")
def measured() -> tuple[VideoCard, tuple[Film, ...]]:
    subject = VideoSubject("model <one>", Simulator(2), lambda films: films, latent_dim=2)
    return measure(
        subject, make_windows(2, 2), make_windows(2, 4), data="worlds", scorers=Scorers(), films=2, batch_size=2
    )


def test_the_page_is_one_file_with_everything_in_it(measured: tuple[VideoCard, tuple[Film, ...]]) -> None:
    card, films = measured
    page = video_page(card, films)
    assert "http" not in page and "<script" not in page and "<one>" not in page
    assert page.count("data:image/webp;base64,") == len(films) == 2
    assert page.count("<svg") == 3, "PSNR, SSIM, drift"
    for name in PANELS.values():
        assert f"<span>{html.escape(name)}</span>" in page
    for gate in card.gates:
        assert html.escape(gate_text(gate)) in page
    for table in tables(card):
        assert html.escape(table.note) in page
        for name, cells in table.rows.items():
            assert html.escape(name) in page and all(html.escape(cell.text) in page for cell in cells)
    assert "MISS" not in page and html.escape(verdict(card)) in page


def test_a_missed_gate_is_shown_with_its_limit(
    measured: tuple[VideoCard, tuple[Film, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    card, films = measured
    missed = replace(card.gates[2], value=0.4, passed=False)
    unknown = replace(card.gates[3], value=None, passed=None)
    card = replace(card, gates=(*card.gates[:2], missed, unknown))
    print_card(card)
    printed = capsys.readouterr().out
    assert "MISS  motion with zero actions: 0.40, limit ≤ 0.10" in printed
    assert "cosine with opposite actions: not measured" in printed and printed.count("PASS") == 2
    assert "misses 1 of 3 gates (motion with zero actions)" in " ".join(printed.split())
    assert "MISS motion with zero actions: 0.40" in video_page(card, films)


def test_what_was_not_measured_is_said(
    measured: tuple[VideoCard, tuple[Film, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    card = replace(measured[0], drift=None, missing={"drift": "no clip is long enough"})
    print_card(card)
    assert "No drift: no clip is long enough" in " ".join(capsys.readouterr().out.split())
    assert video_page(card, ()).count("<svg") == 2


def test_a_poor_probe_is_called_poor(measured: tuple[VideoCard, tuple[Film, ...]]) -> None:
    hands = [Hand(measured[0].foreground, probe_r2) for probe_r2 in ((0.9, 0.2), (0.9, 0.8))]
    poor, fine = (next(t for t in tables(replace(measured[0], hand=hand)) if t.title == "Hand") for hand in hands)
    assert "0.20 down. That is poor" in poor.note and "poor" not in fine.note


def test_lpips_and_fvd_have_columns_where_they_were_measured(measured: tuple[VideoCard, tuple[Film, ...]]) -> None:
    card = measured[0]
    assert tables(card)[0].columns == ("PSNR, dB", "SSIM")
    curve = Curve(Interval(0.25, 0.2, 0.3), (Interval(0.25, 0.2, 0.3),) * card.steps)
    fidelity = {name: replace(kind, lpips=curve, fvd=12.34) for name, kind in card.fidelity.items()}
    table = tables(replace(card, fidelity=fidelity))[0]
    assert table.columns == ("PSNR, dB", "SSIM", "LPIPS", "FVD")
    assert [cell.text for cell in table.rows["own actions"][2:]] == ["0.250", "12.3"]
    assert "FVD of 2 films of 3 frames" in table.note
