"""Frames in, detections out: packages of trained models, the detector, overlays."""
