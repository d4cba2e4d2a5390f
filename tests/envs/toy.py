"""Tiny environments whose outcomes can be computed by hand; imported by simulator processes through their ids."""

import os
import signal

import gymnasium
import numpy as np
from gymnasium.spaces import Box


class Countdown(gymnasium.Env):
    """Runs 3 to 9 steps (by seed); reward and success say what the last action did to it.

    Draws from numpy's global generator at reset and at each step, as OGBench's mazes do.
    """

    observation_space = Box(-np.inf, np.inf, (2, 2), np.float64)
    action_space = Box(-2.0, 2.0, (1,), np.float32)
    reports_success = True

    def __init__(self, render_mode=None, width=16, height=16):
        self.render_mode, self._shape = render_mode, (height, width, 3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = int(np.random.randint(3, 10))
        self.kind = float(self.np_random.uniform())
        return self._observation(), {}

    def step(self, action):
        self.left -= 1
        info = {"success": float(action[0] > 0)} if self.reports_success else {}
        return self._observation(), float(action[0]), self.left == 0, False, info

    def render(self):
        return np.full(self._shape, self.left, np.uint8)

    def _observation(self):
        return np.array([[self.left, self.kind], [np.random.uniform(), 0.0]])


class Plain(Countdown):
    reports_success = False


class Killed(Countdown):
    def step(self, action):
        os.kill(os.getpid(), signal.SIGKILL)


class Exits(Countdown):
    def step(self, action):
        os._exit(7)


class Fails(Countdown):
    def step(self, action):
        class CannotBePickled(Exception):
            pass

        raise CannotBePickled("the robot fell apart at 100%")


class Line(gymnasium.Env):
    """A point on a line at x: an action moves it by a quarter of itself, a reward is -|x|; 20 steps, no end before.

    The best return is that of walking to 0 at full speed: -sum_k max(|x_0| - k / 4, 0), at most 1.5 below 0.
    """

    observation_space = Box(-np.inf, np.inf, (1,), np.float32)
    action_space = Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.steps = self.np_random.uniform(-1, 1), 0
        return np.array([self.x], np.float32), {}

    def step(self, action):
        self.x += float(action[0]) / 4
        self.steps += 1
        return np.array([self.x], np.float32), -abs(self.x), False, self.steps == 20, {}


class Cliff(Line):
    """The line with an end: beyond 1 the task is over, which is a success; after 7 steps time is up. Noisy steps."""

    def step(self, action):
        self.x += float(action[0]) / 4 + np.random.uniform(-0.1, 0.1)
        self.steps += 1
        over = abs(self.x) > 1
        return np.array([self.x], np.float32), float(over), over, self.steps == 7, {"success": float(over)}


class Slides(gymnasium.Env):
    """Shows 3 to 7 images (by seed), each of one grey: the episode's own grey, then one more at every step."""

    observation_space = Box(0, 255, (2, 3, 1), np.uint8)
    action_space = Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left, self.grey = int(self.np_random.integers(3, 8)), int(self.np_random.integers(200))
        return self._observation(), {}

    def step(self, action):
        self.left, self.grey = self.left - 1, self.grey + 1
        return self._observation(), float(action[0]), self.left == 0, False, {}

    def _observation(self):
        return np.full((2, 3, 1), self.grey, np.uint8)


for cls in (Countdown, Plain, Killed, Exits, Fails, Line, Cliff, Slides):
    gymnasium.register(f"{cls.__name__}-v0", entry_point=cls)
