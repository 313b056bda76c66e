"""Where the data of the recipes come from, and how `minibatch convert` makes data sets of them: a table of values.

A data set has downloads (official addresses, each with the digest of what must come), and forms: the ways in which
people have its raw data, each with the conversions that make the parts train and valid of it, as one would type them.
`minibatch train NAME --data …` carries them out (tools/recipe_data.py); `converted` says them in its error.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

PARTS = ("train", "valid")
FETCH = "fetch"  # for --data: download it


@dataclass(frozen=True, kw_only=True)
class Download:
    """A file at its official address: `digest` is "md5:…" or "sha256:…", `name` what it is called here."""

    url: str
    digest: str
    name: str


@dataclass(frozen=True, kw_only=True)
class Part:
    """One `minibatch convert`: the source is what `path`, a pattern, names in the raw data (empty: they as a whole)."""

    path: str = ""
    options: str = ""


@dataclass(frozen=True, kw_only=True)
class Form:
    """A form of raw data: a file whose name fits one of `files`, or a folder that `holds` a match of each pattern,
    itself or in a folder of its own; an archive whose name fits one of `archives` is unpacked to such a folder first.

    called: for messages. example: the path of one in commands that are shown. holds: by what is told of each. Patterns
    of names are in small letters, and fit in whatever letters a file's name is.
    """

    called: str
    example: str
    files: Sequence[str] = ()
    archives: Sequence[str] = ()
    holds: Sequence[str] = ()
    train: Part
    valid: Part

    def part(self, name: str) -> Part:
        """The conversion that makes "train" or "valid"."""
        return self.train if name == "train" else self.valid

    def commands(self, folder: str) -> list[str]:
        """What to type to make `folder`/train and `folder`/valid of the example.

        >>> CIFAR10.forms[0].commands("data/cifar10")[0]
        'minibatch convert cifar-10-batches-bin data/cifar10/train --subset train'
        """
        found = []
        for name in PARTS:
            part = self.part(name)
            source = f"{self.example}/{part.path.replace('*', '')}" if part.path else self.example
            found.append(f"minibatch convert {source} {folder}/{name} {part.options}".strip())
        return found


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A data set with where it comes from: its page, its licence, whom to cite; `downloads` that make up its raw data.

    by_hand: where a person gets it, and without downloads why only so.
    """

    title: str
    page: str
    licence: str
    cite: str
    by_hand: str
    downloads: Sequence[Download] = ()
    forms: Sequence[Form] = ()


def _idx_files(address: str, digests: Sequence[str]) -> tuple[Download, ...]:
    """The four files of MNIST and of what is laid out like it."""
    names = [f"{part}-{what}-ubyte.gz" for part in ("train", "t10k") for what in ("images-idx3", "labels-idx1")]
    return tuple(
        Download(url=f"{address}{name}", digest=f"md5:{digest}", name=name)
        for name, digest in zip(names, digests, strict=True)
    )


def _idx_form(example: str) -> Form:
    return Form(
        called="a folder with the four IDX files, packed or not (train-images-idx3-ubyte[.gz], …)",
        example=example,
        holds=("train-images?idx3-ubyte*", "train-labels?idx1-ubyte*", "t10k-images?idx3-*", "t10k-labels?idx1-*"),
        train=Part(options="--subset train"),
        valid=Part(options="--subset test"),
    )


CIFAR10 = DataSet(
    title="CIFAR-10",
    page="https://www.cs.toronto.edu/~kriz/cifar.html",
    licence="none is stated; free for research with citation",
    cite="Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images",
    by_hand="cifar-10-binary.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html",
    downloads=(
        Download(
            url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
            digest="md5:c32a1d4ab5d03f1284b67883e8d87530",  # as on the page
            name="cifar-10-binary.tar.gz",
        ),
    ),
    forms=(
        Form(
            called="the binary or Python version: cifar-10-batches-bin, cifar-10-binary.tar.gz",
            example="cifar-10-batches-bin",
            archives=("cifar-10-binary*.tar.gz", "cifar-10-python*.tar.gz"),
            holds=("data_batch_1*", "test_batch*"),
            train=Part(options="--subset train"),
            valid=Part(options="--subset test"),
        ),
        Form(
            called="pictures by class, a folder or tar with train/CLASS and test/CLASS",
            example="cifar10-jpg.tar.gz",
            files=("*.tar", "*.tar.gz", "*.tgz"),
            holds=("train/*/*", "test/*/*"),
            train=Part(options="--subset train --decode"),
            valid=Part(options="--subset test --decode"),
        ),
    ),
)

IMAGENET = DataSet(
    title="ImageNet, or any pictures by class",
    page="https://image-net.org",
    licence="research only, by request",
    cite="Russakovsky et al. 2015, arXiv:1409.0575",
    by_hand="https://image-net.org/download (ILSVRC 2012 is given out by request)",
    forms=(
        Form(
            called="pictures by class, a folder or tar with train/CLASS and val/CLASS",
            example="ILSVRC2012",
            files=("*imagenet*.tar", "*ilsvrc*.tar"),
            holds=("train/*/*", "val/*/*"),
            train=Part(options="--subset train"),
            valid=Part(options="--subset val"),
        ),
        Form(
            called="pictures by class, a folder or tar with train/CLASS and test/CLASS",
            example="cifar10-jpg.tar.gz",
            files=("*.tar", "*.tar.gz", "*.tgz"),
            holds=("train/*/*", "test/*/*"),
            train=Part(options="--subset train"),
            valid=Part(options="--subset test"),
        ),
    ),
)

MNIST = DataSet(
    title="MNIST",
    page="http://yann.lecun.com/exdb/mnist",
    licence="CC BY-SA 3.0",
    cite="LeCun, Bottou, Bengio and Haffner 1998, Gradient-based learning applied to document recognition",
    by_hand="the four files from https://ossci-datasets.s3.amazonaws.com/mnist/ in one folder",
    downloads=_idx_files(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",  # torchvision's mirror; the digests are torchvision's
        (
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "d53e105ee54ea40749a09fcbcd1e9432",
            "9fb629c4189551a2d022fa330f9573f3",
            "ec29112dd5afa0611ce80d1b7f02629c",
        ),
    ),
    forms=(_idx_form("mnist"),),
)

FASHION_MNIST = DataSet(
    title="Fashion-MNIST",
    page="https://github.com/zalandoresearch/fashion-mnist",
    licence="MIT",
    cite="Xiao, Rasul and Vollgraf 2017, arXiv:1708.07747",
    by_hand="the four files from https://github.com/zalandoresearch/fashion-mnist in one folder",
    downloads=_idx_files(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        (
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "25c81989df183df01b3e8a0aad5dffbe",
            "bef4ecab320f06d8554ea6380940ec79",
            "bb300cfdad3c16e7a12a480ee83cd310",
        ),
    ),
    forms=(_idx_form("fashion-mnist"),),
)

BCCD = DataSet(
    title="BCCD",
    page="https://github.com/Shenggan/BCCD_Dataset",
    licence="MIT",
    cite="Shenggan and cosmicad, BCCD Dataset",
    by_hand="git clone https://github.com/Shenggan/BCCD_Dataset (no digest of a repository is known)",
    forms=(
        Form(
            called="the folder BCCD, or a folder, tar or zip with it: Annotations, ImageSets, JPEGImages",
            example="BCCD_Dataset",
            files=("*bccd*.tar", "*bccd*.tar.gz", "*bccd*.tgz"),
            archives=("*bccd*.zip",),
            holds=("Annotations/*.xml", "JPEGImages/*.jpg", "ImageSets/Main/trainval.txt", "ImageSets/Main/test.txt"),
            train=Part(options="--subset trainval"),
            valid=Part(options="--subset test"),
        ),
    ),
)

_CNTK = "https://raw.githubusercontent.com/microsoft/CNTK"
_ATIS_STREAMS = "--stream words=S0:943:ids:sequence --stream intent=S1:26:ids:single --stream slots=S2:129:ids:sequence"
ATIS = DataSet(
    title="ATIS in CNTK's text format",
    page="https://github.com/microsoft/CNTK/tree/v2.0/Tutorials/SLUHandsOn",
    licence="of the corpus: Linguistic Data Consortium; of CNTK's files: MIT",
    cite="Hemphill, Godfrey and Doddington 1990, The ATIS spoken language systems pilot corpus",
    by_hand="atis.train.ctf and atis.test.ctf from CNTK's repository, Tutorials/SLUHandsOn, in one folder",
    downloads=(
        Download(
            url=f"{_CNTK}/v2.0/Tutorials/SLUHandsOn/atis.train.ctf",
            digest="sha256:832b59349e4ccb2ca04005aba9dffaa16a214e328e272e0cfd9c8ec09218ecf0",
            name="atis.train.ctf",
        ),
        Download(
            url=f"{_CNTK}/v2.0/Tutorials/SLUHandsOn/atis.test.ctf",
            digest="sha256:73b3c9414d8242c547fc9188f8212eed8b0a17748e636939748250dcea95914e",
            name="atis.test.ctf",
        ),
    ),
    forms=(
        Form(
            called="a folder with atis.train.ctf and atis.test.ctf",
            example="atis",
            holds=("atis.train.ctf", "atis.test.ctf"),
            train=Part(path="atis.train.ctf", options=_ATIS_STREAMS),
            valid=Part(path="atis.test.ctf", options=_ATIS_STREAMS),
        ),
    ),
)

_CMUDICT_FOLDER = "Examples/SequenceToSequence/CMUDict/Data"
CMUDICT = DataSet(
    title="CMUdict, CNTK's parts of it",
    page="http://www.speech.cs.cmu.edu/cgi-bin/cmudict",
    licence="BSD, Carnegie Mellon University",
    cite="The CMU Pronouncing Dictionary, 0.7b, in the parts of CNTK's example of sequence to sequence",
    by_hand=f"cmudict-0.7b.train and cmudict-0.7b.test from CNTK's repository, {_CMUDICT_FOLDER}, in one folder",
    downloads=(
        Download(
            url=f"{_CNTK}/2db0ec114a03ffaa2018a59f338211bcc99d1b3d/{_CMUDICT_FOLDER}/cmudict-0.7b.train",
            digest="sha256:7f8789a979b1fed9c36b6c5448f162ce3e458f50f4e0c2d68e50a4f172fb0b2b",
            name="cmudict.train",
        ),
        Download(
            url=f"{_CNTK}/0ba41da07b9cef9e25c80777f48dbf0c041bbeee/{_CMUDICT_FOLDER}/cmudict-0.7b.test",
            digest="sha256:ece787fd3d88c7b130d43e7c2307ac11e6dfb4c052d661c37808ec7ed1df8574",
            name="cmudict.test",
        ),
    ),
    forms=(
        Form(
            called="a folder with cmudict.train and cmudict.test (or cmudict-0.7b.train and .test)",
            example="cmudict",
            holds=("cmudict*.train", "cmudict*.test"),
            train=Part(path="cmudict*.train"),
            valid=Part(path="cmudict*.test"),
        ),
    ),
)

TINYSHAKESPEARE = DataSet(
    title="Tiny Shakespeare",
    page="https://github.com/karpathy/char-rnn",
    licence="public domain",
    cite="Karpathy 2015, The Unreasonable Effectiveness of Recurrent Neural Networks",
    by_hand="data/tinyshakespeare/input.txt from https://github.com/karpathy/char-rnn",
    downloads=(
        Download(
            url=(
                "https://raw.githubusercontent.com/karpathy/char-rnn/6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e/"
                "data/tinyshakespeare/input.txt"
            ),
            digest="sha256:86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
            name="tinyshakespeare.txt",
        ),
    ),
    forms=(
        Form(
            called="any text in UTF-8: tinyshakespeare.txt, input.txt",
            example="tinyshakespeare.txt",
            files=("*.txt", "*.txt.gz"),
            train=Part(options="--text-as characters --row-tokens 1000 --subset first:90%"),
            valid=Part(options="--text-as characters --row-tokens 1000000 --subset last:10%"),  # one row, to be exact
        ),
    ),
)

DIGITS = DataSet(
    title="digits",
    page="https://archive.ics.uci.edu/dataset/80",
    licence="CC BY 4.0",
    cite="Alpaydin and Kaynak 1998, Optical Recognition of Handwritten Digits (its test set)",
    by_hand='nothing to get: they come with scikit-learn, pip install "minibatch-timeline[convert]"',
)

# The recipe: what it can be trained on. Of several the first is what `--data fetch` means, the others have names there.
USED: Mapping[str, Mapping[str, DataSet]] = {
    "autoencoder": {"cifar10": CIFAR10},
    "charlm": {"tinyshakespeare": TINYSHAKESPEARE},
    "cifar10": {"cifar10": CIFAR10},
    "cifar10_fast": {"cifar10": CIFAR10},
    "demo": {"digits": DIGITS},
    "detection": {"bccd": BCCD},
    "digits": {"digits": DIGITS},
    "digits_autoencoder": {"digits": DIGITS},
    "digits_few_labels": {"digits": DIGITS},
    "g2p": {"cmudict": CMUDICT},
    "imagenet": {"imagenet": IMAGENET},
    "joint": {"cmudict": CMUDICT},
    "lenet": {"mnist": MNIST, "fashion-mnist": FASHION_MNIST, "digits": DIGITS},
    "multilabel": {"bccd": BCCD},
    "multitask": {"atis": ATIS},
    "step_by_step": {"digits": DIGITS},
    "transfer": {"cifar10": CIFAR10},
    "transfer_base": {"cifar10": CIFAR10},
    "weighted": {"digits": DIGITS},
}
# The data sets by name.
DATA_SETS: Mapping[str, DataSet] = {name: one for used in USED.values() for name, one in used.items()}


def used_by(name: str) -> Mapping[str, DataSet]:
    """What the recipe `name` can be trained on, or the data set of that name; empty for names that are not here.

    >>> list(used_by("cifar10_fast")), list(used_by("bccd")), list(used_by("a.py:mine"))
    (['cifar10'], ['bccd'], [])
    """
    return USED.get(name) or ({name: DATA_SETS[name]} if name in DATA_SETS else {})


def ways(name: str) -> list[str]:
    """The three ways to give the data that `name`, a recipe or a data set, names: sentences, and commands to type.

    >>> for line in ways("bccd"):
    ...     print(line)
    --data PATH of the raw data converts them into the run's folder; PATH is:
    - the folder BCCD, or a folder, tar or zip with it: Annotations, ImageSets, JPEGImages
    --data data/bccd, where data sets lie that were made once for several runs, with:
    - minibatch convert BCCD_Dataset data/bccd/train --subset trainval
    - minibatch convert BCCD_Dataset data/bccd/valid --subset test
    --data fetch cannot download BCCD; by hand: git clone https://...
    """
    forms = {called: one.forms for called, one in used_by(name).items() if one.forms}
    found = []
    if forms:
        found.append("--data PATH of the raw data converts them into the run's folder; PATH is:")
        found += dict.fromkeys(f"- {form.called}" for several in forms.values() for form in several)
        called, (form, *_) = next(iter(forms.items()))
        found.append(f"--data data/{called}, where data sets lie that were made once for several runs, with:")
        found += [f"- {command}" for command in form.commands(f"data/{called}")]
    for called in forms:
        one = DATA_SETS[called]
        word = FETCH if called == next(iter(forms)) else f"{FETCH}:{called}"
        if one.downloads:
            found.append(f"--data {word} downloads {one.title} and converts it; its page is {one.page}")
        else:
            found.append(f"--data {word} cannot download {one.title}; by hand: {one.by_hand}")
    return found
