"""What processes tell each other, and how often."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ranks import Ranks


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return Ranks("worker_messages.py", tmp_path_factory.mktemp("messages")).results()


def test_the_group_is_that_of_the_launcher(two: list[dict[str, Any]]) -> None:
    assert [each["world"] for each in two] == [[0, 2], [1, 2]]


def test_means_are_weighted_by_samples(two: list[dict[str, Any]]) -> None:
    # (3 * 1 + 1 * 2) / 4 = 1.25 and (3 * 0 + 1 * 10) / 4 = 2.5
    for each in two:
        pair, scalar = each["mean"]
        assert pair.tolist() == [1.25, 1.25]
        assert scalar.item() == 2.5
        assert (pair.dtype, scalar.dtype) == (torch.float32, torch.float64)


def test_a_process_without_samples_has_no_say(two: list[dict[str, Any]]) -> None:
    assert [each["mean with an empty part"][0].tolist() for each in two] == [[1.0, 1.0]] * 2


def test_means_keep_the_memory_format(two: list[dict[str, Any]]) -> None:
    assert all(each["keeps the memory format"] for each in two)


def test_sums_and_largest(two: list[dict[str, Any]]) -> None:
    assert [each["sum"] for each in two] == [[3.0, 0.5]] * 2
    assert [each["largest"] for each in two] == [15, 15]


def test_rows_and_bytes_arrive_in_order_of_rank(two: list[dict[str, Any]]) -> None:
    assert [each["rows"][:, 0].tolist() for each in two] == [[0.0, 0.0, 1.0]] * 2
    assert two[0]["bytes"] == ["", "xxx"]
    assert two[1]["bytes"] == []
    assert [each["sent"] for each in two] == ["from 0"] * 2
    assert [[t.tolist() for t in each["copied"]] for each in two] == [[[0.0, 0.0], 0]] * 2


def test_a_difference_between_processes_is_an_error_that_names_them(two: list[dict[str, Any]]) -> None:
    for each in two:
        assert each["same"] == "no error"
        assert each["different"].startswith("RunError: The alphas of process 1 differ from those of process 0 now")


def test_an_error_of_one_process_is_an_error_of_all(two: list[dict[str, Any]]) -> None:
    assert two[0]["raise_on_all_ranks"] == "RunError: Process 1: image 7 is broken"
    assert two[1]["raise_on_all_ranks"] == "DataError: image 7 is broken"


def test_a_control_flag_of_one_process_reaches_all_with_the_next_mean(two: list[dict[str, Any]]) -> None:
    assert [each["flags"] for each in two] == [[True, False]] * 2


@pytest.mark.parametrize(("step", "messages"), [("first", 2), ("fd", 4), ("exact", 4)])
def test_a_step_sends_one_message_for_each_gradient(two: list[dict[str, Any]], step: str, messages: int) -> None:
    # First order: the alphas' gradient, the weights' gradient. Second order, before these: the training gradient that
    # the look-ahead takes, and the derivative of that gradient along the direction.
    assert [each[f"step {step}"] for each in two] == [["all_reduce"] * messages] * 2


def test_a_synchronised_norm_sends_one_message_forward_and_one_back(two: list[dict[str, Any]]) -> None:
    # 3 norms, in the alphas' pass and in the weights' pass. With the weights fixed, the alphas' gradient goes back
    # through what follows the choices, so through one of them.
    norms_forward, norms_back = 2 * 3, 1 + 3
    assert [len(each["step with norms"]) for each in two] == [2 + norms_forward + norms_back] * 2


def test_a_search_whose_processes_disagree_stops(two: list[dict[str, Any]]) -> None:
    for each in two:
        assert each["disagreement"].startswith("RunError: The alphas of process 1 differ from those of process 0 after")
        assert "Go on from the last checkpoint" in each["disagreement"]


def test_fewer_samples_than_all_processes_need_are_refused(two: list[dict[str, Any]]) -> None:
    for each in two:
        assert each["too few"].startswith("DataError")
        assert "batch_size=8 on each of 2 processes" in each["too few"]
