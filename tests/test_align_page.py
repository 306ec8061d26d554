"""The card of a robot in terminal and page: all numbers, what is left out, a strip for each control; no network."""

import html
from dataclasses import replace

import pytest

from align.align_card import AlignCard
from align.evaluate import Measured, measure
from align.subject import RobotSubject
from align.told_controls import cut_windows
from scripts.align_page import PANELS, align_page
from scripts.align_table import moved_states, print_card, tables, unread, verdict
from scripts.card_print import gate_text
from tests.square_robot import NAMES, Player, fitted, perfect_probe, recording


@pytest.fixture(scope="module")
def measured() -> Measured:
    recordings = [recording(seed, frames=8) for seed in range(2)]
    subject = RobotSubject("model <one>", fitted(recordings), Player(range(2)), lambda films: films)
    windows = cut_windows(recordings, steps=4, each=1)
    return measure(subject, windows, data="squares", probe=perfect_probe(recordings), films=2, starts=1)


def printed(card: AlignCard, capsys: pytest.CaptureFixture[str]) -> str:
    print_card(card)
    return " ".join(capsys.readouterr().out.split())


def test_the_page_is_one_file_with_everything_in_it(measured: Measured) -> None:
    card = measured.card
    page = align_page(measured)
    assert "http" not in page and "<script" not in page and "<one>" not in page
    assert page.count("data:image/webp;base64,") == len(measured.films) + len(measured.strips) == 2 + 3
    assert page.count("<svg") == 2, "PSNR, SSIM"
    for name in PANELS.values():
        assert f"<span>{html.escape(name)}</span>" in page
    for name in NAMES:
        assert f"<figcaption>{name}</figcaption>" in page
    for gate in card.gates:
        assert html.escape(gate_text(gate)) in page
    moved = moved_states(card)
    assert moved and "3 of 3 controls move their own state most" in moved.note
    for table in (*tables(card), moved):
        assert html.escape(table.note) in page
        for name, cells in table.rows.items():
            assert html.escape(name) in page and all(html.escape(cell.text) in page for cell in cells)
    assert "MISS" not in page and html.escape(verdict(card)) in page and 'class="bad"' not in page


def test_what_cannot_be_read_is_said_loudly(measured: Measured, capsys: pytest.CaptureFixture[str]) -> None:
    card = measured.card
    assert card.state and unread(card) == ""
    card = replace(card, state=replace(card.state, unread={"y": "R² 0.20"}))
    said = "since the probe cannot read them from real frames (R² below 0.5): y (R² 0.20)"
    assert said in printed(card, capsys) and said in align_page(replace(measured, card=card))
    assert "<td>left out<small>" in align_page(replace(measured, card=card))


def test_without_states(measured: Measured, capsys: pytest.CaptureFixture[str]) -> None:
    card = measured.card
    bare = tuple(replace(effect, states={}, own=None, asked=None) for effect in card.trials.controls)
    card = replace(
        card, state=None, missing={"state error": "there is none"}, trials=replace(card.trials, controls=bare)
    )
    assert moved_states(card) is None and len(tables(card)) == 3
    assert "No state error: there is none." in printed(card, capsys)
    assert "No state error: there is none." in align_page(replace(measured, card=card))


def test_a_missed_gate_is_shown_with_its_limit(measured: Measured, capsys: pytest.CaptureFixture[str]) -> None:
    card = measured.card
    card = replace(card, gates=(*card.gates[:5], replace(card.gates[5], value=0.4, passed=False)))
    shown = printed(card, capsys)
    assert "MISS motion with neutral controls: 0.40, limit ≤ 0.10" in shown and shown.count("PASS") == 5
    assert "misses 1 of 6 gates (motion with neutral controls)" in shown
    assert "MISS motion with neutral controls: 0.40" in align_page(replace(measured, card=card))
