"""Pieces of memory against a list of who holds what."""

import numpy as np
import pytest

from service.histories.pieces import SIZES, WORDS, Pieces, first_word, give, take, words_of


def taken(pieces: Pieces, size: int) -> int:
    return int(take(pieces.words, pieces.book, size))


def given(pieces: Pieces, piece: int) -> None:
    give(pieces.words, pieces.book, piece)


def words(pieces: Pieces, piece: int) -> np.ndarray:
    first = first_word(piece)
    return pieces.words[first : first + words_of(piece)]


@pytest.mark.parametrize("seed", range(3))
def test_what_a_holder_wrote_stays_whatever_others_take_and_give_and_wherever_it_moves(
    seed: int,
) -> None:
    draw, pieces = np.random.default_rng(seed), Pieces()
    names, marks = np.zeros(400, np.int64), np.zeros(400, np.int64)
    for step in range(6000):
        at = int(draw.integers(0, len(names)))
        if names[at]:
            assert (words(pieces, names[at]) == marks[at]).all()
            given(pieces, names[at])
            names[at] = 0
        elif draw.random() < 0.6 + 0.4 * np.cos(step / 700):
            size = WORDS << int(draw.integers(0, 7))
            names[at], marks[at] = taken(pieces, size), step
            assert words_of(names[at]) == size
            assert first_word(names[at]) % WORDS == 0
            words(pieces, names[at])[:] = step
        if step % 1000 == 999:
            pieces.compact(names, np.flatnonzero(names))
            assert pieces.free_words == 0
        if step % 50 == 0:
            assert pieces.live_words == sum(words_of(name) for name in names.tolist())
    for at in np.flatnonzero(names):
        assert (words(pieces, names[at]) == marks[at]).all()


@pytest.mark.parametrize("long", [16, 1024, WORDS << (SIZES - 1)])
def test_a_freed_piece_serves_smaller_ones_before_the_memory_grows(long: int) -> None:
    pieces = Pieces()
    given(pieces, taken(pieces, long))
    short = [taken(pieces, WORDS) for _ in range(long // WORDS)]
    assert {first_word(piece) for piece in short} == set(range(0, long, WORDS))
    assert pieces.free_words == 0
    assert first_word(taken(pieces, WORDS)) == long


def test_a_freed_piece_is_taken_whole_if_it_fits() -> None:
    pieces = Pieces()
    small, large = taken(pieces, 16), taken(pieces, 64)
    given(pieces, large)
    given(pieces, small)
    assert taken(pieces, 16) == small
    assert taken(pieces, 64) == large


def test_compacting_gives_the_pages_back() -> None:
    pieces = Pieces()
    names = np.array([taken(pieces, 32_768) for _ in range(64)])
    for name in names.tolist():
        words(pieces, name)[:] = name
    held = pieces.nbytes
    assert held == 64 * 32_768 * 8
    for name in names[:-1].tolist():
        given(pieces, name)
    pieces.compact(names, np.array([63]))
    assert first_word(names[63]) == 0
    assert len(set(words(pieces, names[63]).tolist())) == 1
    assert pieces.nbytes < held / 4
    assert not pieces.words[pieces.nbytes // 8 : held // 8].any()
