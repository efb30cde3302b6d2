"""Resize a clip with OpenCV, in grey.

python resize.py INPUT OUTPUT
"""

import sys

import cv2

capture = cv2.VideoCapture(sys.argv[1])
if not capture.isOpened():
    sys.exit(f"cannot open {sys.argv[1]}")
rate = capture.get(cv2.CAP_PROP_FPS)
writer = cv2.VideoWriter(sys.argv[2], cv2.VideoWriter_fourcc(*"mp4v"), rate, (160, 90))
count = 0
while True:
    more, image = capture.read()
    if not more:
        break
    small = cv2.resize(image, (160, 90), interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY)
    writer.write(cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR))
    count += 1
capture.release()
writer.release()
print(count, "frames")
