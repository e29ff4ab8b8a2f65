"""Rendered scenes: videos whose motion, occlusion and truth at every instant are known exactly.

`textures` makes surfaces, `shapes` outlines, `script` describes a scene, `compose` invents one from a seed, and
`render` draws it.
"""

from midframe.scenes.compose import Mix, compose
from midframe.scenes.render import Rendered, render, stack
from midframe.scenes.script import Scene
from midframe.scenes.textures import Textures, find_photos, held_out

__all__ = ["Mix", "Rendered", "Scene", "Textures", "compose", "find_photos", "held_out", "render", "stack"]
