import pytest

from dynscale_dspy.allocation.policies import POLICIES, UCB, Policy, make_policy


def test_registry_holds_every_policy_of_the_package():
    from dynscale_dspy.allocation import policies

    concrete = {
        value
        for value in vars(policies).values()
        if isinstance(value, type) and issubclass(value, Policy) and not value.__abstractmethods__
    }
    assert set(POLICIES.values()) == concrete


class TestMakePolicy:
    def test_settings_follow_the_name(self):
        assert make_policy("ucb:exploration=0.1:uncertainty=entropy") == UCB(exploration=0.1, uncertainty="entropy")

    def test_unknown_name_is_refused_with_the_known_ones(self):
        with pytest.raises(ValueError, match=r"^unknown policy 'usb': choose from adaptive_consistency, best_of"):
            make_policy("usb")

    def test_unknown_setting_is_refused(self):
        with pytest.raises(ValueError, match=r"^policy 'ucb:speed=3': .*unexpected keyword argument 'speed'$"):
            make_policy("ucb:speed=3")

    def test_setting_without_value_is_refused(self):
        with pytest.raises(ValueError, match=r"^policy 'ucb:fast': write settings as key=value, got 'fast'$"):
            make_policy("ucb:fast")


class TestArguments:
    @pytest.mark.parametrize("kind", POLICIES.values())
    def test_first_must_be_a_positive_integer(self, kind):
        for first in (0, -1, 1.5, True):
            with pytest.raises(ValueError, match=r"^first must be an integer of at least 1, got"):
                kind(first=first)
