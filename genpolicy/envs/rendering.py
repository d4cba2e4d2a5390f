"""Rendering on machines without a display, for videos and for tasks whose observations are images."""

import os
import subprocess
import sys

from genpolicy.data.success_timing import registered
from genpolicy.errors import GenpolicyError

_PACKAGES = {"egl": "libegl1", "osmesa": "libosmesa6"}
_PROBE = "import mujoco; mujoco.Renderer(mujoco.MjModel.from_xml_string('<mujoco/>'), 16, 16).render()"


def observes_images(environment: str) -> bool:
    """Whether an environment renders its observations; OGBench marks those in their names."""
    return registered(environment)[0].startswith("visual-")


def select_renderer() -> str:
    """Find a way to render without a display and select it in the environment variable ``MUJOCO_GL``.

    A value that is set already is kept if it works. Each candidate is tried in a process of its own, since MuJoCo
    settles for one when it is imported.

    Returns:
        The value of ``MUJOCO_GL``; "" for the native renderer of systems other than Linux.

    Raises:
        GenpolicyError: if none works; the message says what to install.
    """
    chosen = os.environ.get("MUJOCO_GL", "")
    if not chosen and not sys.platform.startswith("linux"):
        return ""
    tried = []
    for name in [chosen] if chosen else list(_PACKAGES):
        probe = subprocess.run(
            [sys.executable, "-c", _PROBE],
            env={**os.environ, "MUJOCO_GL": name},
            capture_output=True,
            text=True,
            timeout=120,
        )
        if probe.returncode == 0:
            os.environ["MUJOCO_GL"] = name
            return name
        lines = probe.stderr.strip().splitlines()
        tried.append(f"{name} ({lines[-1] if lines else f'exit code {probe.returncode}'})")
    packages = " or ".join(_PACKAGES.values())
    raise GenpolicyError(
        f"MuJoCo cannot render here; tried {', '.join(tried)}. Install the Debian package {packages} "
        f"(apt-get install -y {packages.split()[0]}), or set MUJOCO_GL to one of egl, osmesa, glfw that works."
    )
