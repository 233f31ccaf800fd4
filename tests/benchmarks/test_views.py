"""How many views are enough: the differences to fresh views, paired by seed."""

from flax_augtl.benchmarks import views as benchmark


def test_the_table_has_mean_differences_to_fresh_views_with_their_standard_errors(tmp_path, monkeypatch, capsys):
    accuracies = {benchmark.FRESH: (0.90, 0.92), 1: (0.88, 0.92), 2: (0.91, 0.93), 4: (0.90, 0.92), 8: (0.89, 0.95)}
    trained = []

    def train_once(arguments, dataset, depth, seed, views):
        trained.append((dataset, depth, seed, views))
        return {"test": accuracies[views][seed], "seconds": 1.0}

    monkeypatch.setattr(benchmark, "train_once", train_once)
    command = ["views", "--root=photos", f"--workdir={tmp_path}", "--only=hymenoptera:all", "--seeds=2"]
    monkeypatch.setattr("sys.argv", command)
    benchmark.main()
    assert capsys.readouterr().out.splitlines()[-3:] == [
        "| | seeds | fresh | 1 views | 2 views | 4 views | 8 views |",
        "|---|---|---|---|---|---|---|",
        "| hymenoptera, `all` | 2 | 0.910 | -1.0 ± 1.0 | +1.0 ± 0.0 | +0.0 ± 0.0 | +1.0 ± 2.0 |",
    ]
    assert len(trained) == 2 * 5
    benchmark.main()  # Everything is there.
    assert len(trained) == 2 * 5
