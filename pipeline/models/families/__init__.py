"""One file per family of models; a new one is imported here, and nothing else need know it."""

from pipeline.models.families import chroma as chroma
from pipeline.models.families import cogview4 as cogview4
from pipeline.models.families import dit as dit
from pipeline.models.families import edm as edm
from pipeline.models.families import flux as flux
from pipeline.models.families import flux2 as flux2
from pipeline.models.families import gaussian as gaussian
from pipeline.models.families import hunyuan_video as hunyuan_video
from pipeline.models.families import kolors as kolors
from pipeline.models.families import ltx as ltx
from pipeline.models.families import lumina2 as lumina2
from pipeline.models.families import pixart as pixart
from pipeline.models.families import qwen as qwen
from pipeline.models.families import sana as sana
from pipeline.models.families import sana_video as sana_video
from pipeline.models.families import sd as sd
from pipeline.models.families import sd3 as sd3
from pipeline.models.families import sdxl as sdxl
from pipeline.models.families import song as song
from pipeline.models.families import unet2d as unet2d
from pipeline.models.families import wan as wan
from pipeline.models.families import wan_image as wan_image
from pipeline.models.families import z_image as z_image
from pipeline.models.family import FAMILIES as FAMILIES
from pipeline.models.family import register_family as register_family
