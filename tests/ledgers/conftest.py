"""The contract suites are tests: their failures show values as tests' do."""

import pytest

pytest.register_assert_rewrite("p2engine.testing.contracts")
