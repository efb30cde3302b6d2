"""OpenCV: what is read, written, inferred and filtered, recorded in an unmodified program.

Methods of OpenCV's classes and the functions of its module are replaced in place
while recording. A program that has bound a function before (`from cv2 import
resize`) keeps the unrecorded one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np

from ..patching import Patches
from . import arrays, opencv_io
from .recorder import SpanRecorder
from .refs import FrameRef
from .stages import stage

#: Functions of cv2 that are a step of a pipeline, each a stage of its own name. Drawing
#: (rectangle, putText) is left out: it works in place, keeps the image's identity and
#: takes about as long as it would to write it down.
FUNCTIONS = """
    Canny GaussianBlur LUT Laplacian Scharr Sobel absdiff accumulateWeighted adaptiveThreshold
    add addWeighted applyColorMap bilateralFilter bitwise_and bitwise_not bitwise_or bitwise_xor
    blur boxFilter buildOpticalFlowPyramid calcHist calcOpticalFlowFarneback calcOpticalFlowPyrLK
    connectedComponents connectedComponentsWithStats convertScaleAbs copyMakeBorder cornerHarris
    cvtColor cvtColorTwoPlane demosaicing dilate distanceTransform divide equalizeHist erode
    fastNlMeansDenoising fastNlMeansDenoisingColored filter2D findContours flip goodFeaturesToTrack
    hconcat imdecode imencode inRange inpaint integral matchTemplate medianBlur merge morphologyEx
    multiply normalize phaseCorrelate pyrDown pyrUp remap resize rotate sepFilter2D split subtract
    threshold transpose undistort vconcat warpAffine warpPerspective warpPolar watershed
"""

#: The same in cv2.dnn.
DNN_FUNCTIONS = ("blobFromImage", "blobFromImages", "imagesFromBlob")

#: Methods that work on an image: class, method, stage.
METHODS = (
    ("BackgroundSubtractor", "apply", "BackgroundSubtractor"),
    ("BackgroundSubtractorMOG2", "apply", "BackgroundSubtractorMOG2"),
    ("BackgroundSubtractorKNN", "apply", "BackgroundSubtractorKNN"),
    ("CascadeClassifier", "detectMultiScale", "CascadeClassifier"),
    ("HOGDescriptor", "detectMultiScale", "HOGDescriptor"),
    ("QRCodeDetector", "detectAndDecode", "QRCodeDetector"),
    ("CLAHE", "apply", "CLAHE"),
    ("ORB", "detectAndCompute", "ORB"),
    ("SIFT", "detectAndCompute", "SIFT"),
    ("DISOpticalFlow", "calc", "DISOpticalFlow"),
)

#: Arrays of a tuple of results that get an identity: an image, a mask, the planes of a split.
_MOST_OUTPUTS = 4


def install(patches: Patches, recorder: SpanRecorder) -> None:
    """Record OpenCV, now or once the program imports it, until `patches` are restored."""
    patches.when_imported("cv2", lambda cv2: _install(patches, recorder, cv2))


def _install(patches: Patches, recorder: SpanRecorder, cv2: Any) -> None:
    for name in FUNCTIONS.split():
        _replace(patches, cv2, name, name)
    for name in DNN_FUNCTIONS:
        _replace(patches, cv2.dnn, name, name)
    for class_name, method, stage_name in METHODS:
        owner = getattr(cv2, class_name, None)
        if owner is not None and method in vars(owner):
            _replace(patches, owner, method, stage_name)
    _install_net(patches, cv2.dnn.Net, recorder)
    opencv_io.install(patches, recorder, cv2)


# --- images ---------------------------------------------------------------------


def _replace(patches: Patches, owner: Any, name: str, stage_name: str) -> None:
    function: Callable[..., Any] | None = getattr(owner, name, None)
    if function is not None:  # not every OpenCV has all of them
        patches.set(owner, name, _as_stage(function, stage_name))


def _as_stage(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Return the function as a stage of the frame that it is given, which its results show too."""

    @wraps(function)
    def recorded(*args: Any, **kwargs: Any) -> Any:
        with stage(name, _newest_frame(args, kwargs)) as span:
            result = function(*args, **kwargs)
        ref = getattr(span, "ref", None)
        if ref is not None:
            _carry(ref, result)
        return result

    return recorded


def _newest_frame(args: tuple[Any, ...], kwargs: dict[str, Any]) -> FrameRef | None:
    """Return the frame that an argument shows; of several the one that was read last.

    A function of two images compares a frame with one of before, or with a background.
    """
    found = None
    for value in (*args, *kwargs.values()) if kwargs else args:
        if isinstance(value, np.ndarray):
            ref = arrays.recall(value)
        elif type(value) in (list, tuple) and value and isinstance(value[0], np.ndarray):
            ref = arrays.recall(value[0])  # the planes of a merge, the images of a batch
        else:
            continue
        if found is None or (ref is not None and ref.t_demux_ns > found.t_demux_ns):
            found = ref
    return found


def _carry(ref: FrameRef, result: Any) -> None:
    if type(result) is np.ndarray:
        arrays.remember(result, ref)
    elif type(result) is tuple:
        for value in result[:_MOST_OUTPUTS]:
            if type(value) is np.ndarray:
                arrays.remember(value, ref)


# --- inference ------------------------------------------------------------------


def _install_net(patches: Patches, net: Any, recorder: SpanRecorder) -> None:
    set_input = net.setInput

    @wraps(set_input)
    def recorded_set_input(self: Any, blob: Any, *args: Any, **kwargs: Any) -> Any:
        ref = arrays.recall(blob) if isinstance(blob, np.ndarray) else None
        if ref is not None:  # `forward`, which is given no image, is about this one
            recorder.set_current_frame(ref)
        return set_input(self, blob, *args, **kwargs)

    patches.set(net, "setInput", recorded_set_input)
    _replace(patches, net, "forward", "forward")
