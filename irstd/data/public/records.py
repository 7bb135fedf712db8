"""What is known of the public sets: where they live, under which licence, how they are laid out, and which split is usual.

Every address is one that the set's own pages or repositories give, and `sources` says which; every checksum is that of the
file in the authors' repository at the commit that its list names. The lists of `files/` name each file with sha256 and
size. Nothing here is a copy of anybody's data or split.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from irstd.data.sequence import slug
from irstd.errors import nearest

FILES = Path(__file__).with_name("files")


@dataclass(frozen=True)
class RemoteFile:
    """A file that can be fetched. `place`: where it goes in the set, relative; `sha256` in hexadecimal; `size` in bytes."""

    url: str
    place: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Remote:
    """Files of a repository at one commit. `files`: their list in `files/`; `layout`: {how a path there begins: how the path
    in the set begins}; files that begin otherwise are not fetched."""

    files: str
    layout: dict[str, str]

    def __iter__(self) -> Iterator[RemoteFile]:
        base, *lines = (FILES / self.files).read_text(encoding="utf-8").splitlines()
        for line in lines:
            sha256, size, path = line.split(" ", 2)
            if place := self.place(path):
                yield RemoteFile(base.removeprefix("# ") + path, place, int(size), sha256)

    def place(self, path: str) -> str | None:
        return next(
            (to + path.removeprefix(start) for start, to in self.layout.items() if path.startswith(start)), None
        )


@dataclass(frozen=True)
class PublicSet:
    """A public set. `licence`: as its source states it, None where it states none; `by_hand`: two lines, what to download
    and what it holds, None where all of it is fetched; `format` and `list_name`: the importer and its published list;
    `split`: what that list is; `sequences`: how many a complete set gives, where that can be told."""

    name: str
    what: str
    licence: str | None
    citation: str
    home: str
    format: str
    split: str
    sources: tuple[str, ...]
    tested: str
    list_name: str | None = None
    fetched: tuple[Remote, ...] = ()
    by_hand: tuple[str, str] | None = None
    sequences: int | None = None
    aliases: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def slug(self) -> str:
        return slug(self.name)

    @cached_property
    def files(self) -> list[RemoteFile]:
        """What is fetched: a recording and its labels, then the next, so that the time left can be told from the bytes."""
        return sorted((file for remote in self.fetched for file in remote), key=lambda file: Path(file.place).stem)

    def place(self, path: str) -> str:
        """Where a file of the authors' layout goes in the set: as those that are fetched."""
        return next((found for remote in self.fetched if (found := remote.place(path))), path)


def find(name: str) -> PublicSet | None:
    """The set of that name, in any case and with any of `-_ ` or none between its parts."""
    return {_plain(known): each for each in SETS for known in (each.name, *each.aliases)}.get(_plain(name))


def hint(name: str) -> str:
    """ " (did you mean ...?)" for the nearest name of a set, or an empty string."""
    names = {known.lower(): known for each in SETS for known in (each.name, *each.aliases)}
    found = nearest(name.lower(), names)
    return next((found.replace(low, known) for low, known in names.items() if repr(low) in found), found)


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter not in "-_ ")


_V2_MISC = {"images/targets/Misc_": "images/Misc_", "annotations/masks/Misc_": "masks/Misc_"}
_SCIDB = "Science Data Bank, "

SETS: tuple[PublicSet, ...] = (
    PublicSet(
        name="NUAA-SIRST",
        what="427 single images of real scenes, masks; its authors call it SIRST",
        licence=None,
        citation="Y. Dai, Y. Wu, F. Zhou, K. Barnard: Asymmetric Contextual Modulation for Infrared Small Target "
        "Detection. WACV 2021",
        home="https://github.com/YimianDai/sirst",
        format="sirst",
        list_name="idx_427",
        split="idx_427 (256 train, 85 val, 86 test) of its authors; also there: idx_320, and 50_50 (213:214) of DNA-Net",
        fetched=(
            Remote("open-sirst-v2.txt", _V2_MISC),
            Remote("sirst.txt", {"idx_": "idx_"}),
            Remote("dnanet.txt", {"dataset/NUAA-SIRST/50_50/": "50_50/"}),
        ),
        sequences=427,
        aliases=("SIRST", "SIRST-v1"),
        sources=(
            "YimianDai/sirst at 9ad1a3f9: README.md, idx_*/",
            "YimianDai/open-sirst-v2 at a927e5c6: the images of its splits/*_v1.txt, which equal idx_427, and their masks",
            "YeRen123455/Infrared-Small-Target-Detection at 21584be0: dataset/NUAA-SIRST/50_50/",
        ),
        tested="real files (all 427 images)",
        notes=(
            "images and masks come from the authors' repository of SIRST-v2, where the mask of Misc_111 has its image's "
            "size; in masks.zip of the first version it has not (the other 426 masks are equal)",
            "train and val hold near-duplicates (Misc_201 and Misc_204, Misc_27 and Misc_31)",
        ),
    ),
    PublicSet(
        name="SIRST-v2",
        what="1,024 single images: 514 with targets (NUAA-SIRST among them), 510 without, masks",
        licence=None,
        citation="Y. Dai, X. Li, F. Zhou, Y. Qian, Y. Chen, J. Yang: One-Stage Cascade Refinement Networks for Infrared "
        "Small Target Detection. IEEE TGRS 61, 2023",
        home="https://github.com/YimianDai/open-sirst-v2",
        format="sirst",
        list_name="full",
        split="full (512 train, 256 val, 256 test) of its authors",
        fetched=(
            Remote(
                "open-sirst-v2.txt",
                {
                    "images/targets/": "images/",
                    "images/backgrounds/": "images/",
                    "annotations/masks/": "masks/",
                    "splits/": "",
                },
            ),
        ),
        sequences=1024,
        aliases=("open-sirst-v2",),
        sources=("YimianDai/open-sirst-v2 at a927e5c6: README.md, images/, annotations/masks/, splits/",),
        tested="real files (all 1,024 images)",
    ),
    PublicSet(
        name="Halmstad",
        what="365 LWIR videos, 320x256: drones, birds, planes, helicopters; boxes",
        licence="CC0-1.0",
        citation="F. Svanstrom, F. Alonso-Fernandez, C. Englund: A dataset for multi-sensor drone detection. "
        "Data in Brief 39, 2021",
        home="https://github.com/DroneDetectionThesis/Drone-detection-dataset",
        format="halmstad",
        split="none is published: groups of neighbouring numbers are balanced over train, val, gate and test",
        fetched=(Remote("drone-detection.txt", {"Data/Video_IR/": "Video_IR/", "LICENSE": "LICENSE"}),),
        sequences=365,
        aliases=("Drone-detection-dataset", "Halmstad-drone"),
        sources=("DroneDetectionThesis/Drone-detection-dataset at 442d0c67: README.md, LICENSE, Data/Video_IR/",),
        tested="real files (all 365 videos)",
        notes=(
            "boxes are loose by several pixels and lag by a frame or two in places; nearly every frame has a target",
        ),
    ),
    PublicSet(
        name="NUDT-SIRST",
        what="1,327 synthesized single images, 256x256, masks",
        licence=None,
        citation="B. Li et al.: Dense Nested Attention Network for Infrared Small Target Detection. IEEE TIP 32, 2023",
        home="https://github.com/YeRen123455/Infrared-Small-Target-Detection",
        format="sirst",
        list_name="50_50",
        split="50_50 (663 train, 664 test) of its authors, as BasicIRSTD has it too",
        fetched=(Remote("dnanet.txt", {"dataset/NUDT-SIRST/50_50/": "50_50/"}),),
        by_hand=(
            "https://pan.baidu.com/s/1WdA_yOHDnIiyj4C9SbW_Kg?pwd=nudt (Baidu, code nudt), or with NUAA-SIRST and "
            "IRSTD-1k in https://drive.google.com/file/d/1LscYoPnqtE32qxv5v_dB4iOF4dW3bxL2",
            "the folder that holds images/ and masks/ (000001.png ...)",
        ),
        sequences=1327,
        sources=(
            "YeRen123455/Infrared-Small-Target-Detection at 21584be0: README.md, dataset/NUDT-SIRST/50_50/",
            "XinyiYing/BasicIRSTD at 95650c39: README.md (Google Drive)",
        ),
        tested="fixture; the lists as published",
        notes=("the repository's LICENSE (MIT) is that of its code; of the data nothing is said",),
    ),
    PublicSet(
        name="IRSTD-1k",
        what="1,001 single images of real scenes, 512x512, masks",
        licence="MIT",
        citation="M. Zhang, R. Zhang, Y. Yang, H. Bai, J. Zhang, J. Guo: ISNet: Shape Matters for Infrared Small Target "
        "Detection. CVPR 2022",
        home="https://github.com/RuiZhang97/ISNet",
        format="sirst",
        list_name="IRSTD-1K",
        split="img_idx/IRSTD-1K (800 train, 201 test) of BasicIRSTD, as the field's tables use it",
        fetched=(Remote("basicirstd.txt", {"datasets/IRSTD-1K/": ""}),),
        by_hand=(
            "https://drive.google.com/file/d/1JoGDGF96v4CncKZprDnoIor0k1opaLZa",
            "the archive, or the folder that holds IRSTD1k_Img/ and IRSTD1k_Label/ (XDU0.png ...)",
        ),
        sequences=1001,
        sources=(
            "RuiZhang97/ISNet at b08e0085: README.md, with its agreement (MIT License)",
            "XinyiYing/BasicIRSTD at 95650c39: datasets/IRSTD-1K/img_idx/",
        ),
        tested="fixture; the lists as published",
        notes=("85 of its masks have grey pixels (RuiZhang97/ISNet issue 41): target is what is above 127",),
    ),
    PublicSet(
        name="DAUB",
        what="22 sequences of one small aircraft, 256x256; boxes of 17 of them",
        licence=None,
        citation="B. Hui, Z. Song, H. Fan et al.: A dataset for infrared image dim-small aircraft target detection and "
        "tracking under ground / air background. " + _SCIDB + "2019, CSTR 31253.11.sciencedb.902",
        home="https://www.scidb.cn/en/detail?dataSetId=720626420933459968",
        format="nnlab",
        list_name="coco_DAUB",
        split="coco_DAUB of SSTNet: 10 sequences (8,982 frames) train, 7 (4,795) called val there and used as test",
        fetched=(
            Remote(
                "sstnet.txt",
                {"coco_train_DAUB": "coco_train_DAUB", "coco_val_DAUB": "coco_test_DAUB"},
            ),
        ),
        by_hand=(
            "https://pan.baidu.com/s/1nNTvjgDaEAQU7tqQjPZGrw?pwd=saew (Baidu, code saew), or from its home",
            "the folder that holds the sequences, .../data5/0.bmp ...",
        ),
        aliases=("DUAB",),
        sources=("UESTC-nnLab/SSTNet at 12e5ffff: README.md, coco_{train,val}_DAUB.txt",),
        tested="real files (one sequence); the lists as published",
    ),
    PublicSet(
        name="ITSDT-15K",
        what="60 sequences of vehicles seen from the air, 15,000 frames; boxes",
        licence=None,
        citation="R. Fu, H. Fan, Y. Zhu et al.: A dataset for infrared time-sensitive target detection and tracking for "
        "air-ground application. " + _SCIDB + "2022, CSTR 31253.11.sciencedb.j00001.00331",
        home="https://www.scidb.cn/en/detail?dataSetId=de971a1898774dc5921b68793817916e&dataSetType=journal",
        format="nnlab",
        list_name="coco_ITSDT",
        split="coco_ITSDT of STMENet: 40 sequences train, 20 called val there and used as test",
        fetched=(Remote("stme.txt", {"coco_train_ITSDT": "coco_train_ITSDT", "coco_val_ITSDT": "coco_test_ITSDT"}),),
        by_hand=(
            "https://drive.google.com/file/d/149HdOo8078My1FDiI8mmkH-KXJB0dvXj (MoPKL's), or "
            "https://drive.google.com/file/d/1nnlXK0QCoFqToOL-7WdRQCZfbGJvHLh2 (STMENet's)",
            "the folder that holds images/1/0.bmp ...",
        ),
        aliases=("ITSDT",),
        sources=(
            "UESTC-nnLab/STME at 3e6cef2a: README.md, coco_{train,val}_ITSDT.txt",
            "UESTC-nnLab/MoPKL at 1423e397: README.md",
        ),
        tested="fixture; the lists as published",
    ),
    PublicSet(
        name="IRDST",
        what="85 real sequences as the moving-target papers cut them, 40,656 frames; boxes",
        licence=None,
        citation="H. Sun, J. Bai, F. Yang, X. Bai: Receptive-Field and Direction Induced Attention Network for Infrared "
        "Dim Small Target Detection With a Large-Scale Dataset IRDST. IEEE TGRS 61, 2023",
        home="https://xzbai.buaa.edu.cn/datasets.html",
        format="nnlab",
        list_name="coco_IRDST",
        split="coco_IRDST of SSTNet: 42 sequences train, 43 called val there and used as test",
        fetched=(
            Remote(
                "sstnet.txt",
                {"coco_train_IRDST": "coco_train_IRDST", "coco_val_IRDST": "coco_test_IRDST"},
            ),
        ),
        by_hand=(
            "https://pan.baidu.com/s/1igjIT30uqfCKjLbmsMfoFw?pwd=rrnr (Baidu, code rrnr: the frames in order)",
            "the folder that holds images/1/0.bmp ...",
        ),
        sources=(
            "UESTC-nnLab/SSTNet at 12e5ffff: README.md, coco_{train,val}_IRDST.txt",
            "sun11999/RDIAN at 64e62636: README.md",
        ),
        tested="fixture; the lists as published",
        notes=("the single-frame version of its home is in no order of time: the lists do not fit it",),
    ),
    PublicSet(
        name="IRSTD-UAV",
        what="17 real sequences of drones, 15,106 frames; boxes and masks",
        licence="MIT, for non-commercial research use",
        citation="H. Fang, S. Guo, Q. Chen, Y. Chang, L. Yan: Spatio-Temporal Context Learning with Temporal Difference "
        "Convolution for Moving Infrared Small Target Detection. AAAI 2026",
        home="https://github.com/IVPLaboratory/TDCNet",
        format="irstd-uav",
        split="train.txt and val.txt, which lie in the archive",
        by_hand=(
            "https://drive.google.com/file/d/1orHDqG-nLYBSdJETyt6ozpAGOSoKiT-k",
            "the archive, or the folder that holds images/, labels/, train.txt and val.txt",
        ),
        sources=("IVPLaboratory/TDCNet at 1358358c: README.md, with its licence",),
        tested="fixture",
    ),
    PublicSet(
        name="NUDT-MIRSDT",
        what="120 synthesized sequences of 100 frames; masks",
        licence=None,
        citation="R. Li, W. An, C. Xiao, B. Li, Y. Wang, M. Li, Y. Guo: Direction-Coded Temporal U-Shape Module for "
        "Multiframe Infrared Small Target Detection. IEEE TNNLS, 2023",
        home="https://github.com/TinaLRJ/Multi-frame-infrared-small-target-detection-DTUM",
        format="mirsdt",
        split="train.txt and test.txt of DeepPro: 80 sequences train, 20 test (of SNR up to 3: 47, 56, 59, 76, 92, 101, "
        "105, 119)",
        fetched=(Remote("deeppro.txt", {"datasets/NUDT-MIRSDT/": ""}),),
        by_hand=(
            "https://drive.google.com/file/d/1mjFJmsaNoLhALaaL1_3N4qpAPCiBCqXy, or "
            "https://pan.baidu.com/s/1pSN350eurMafLiHBQBnrPA?pwd=5whn (Baidu, code 5whn)",
            "the folder that holds Sequence1/images/, Sequence1/masks/ ...",
        ),
        sources=("TinaLRJ/DeepPro at 8fa1a68b: README.md, datasets/NUDT-MIRSDT/",),
        tested="fixture; the lists as published",
    ),
)
