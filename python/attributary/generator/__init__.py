"""A small generator without torch, to look at: ONNX files that `attributary-train subject export` wrote."""
