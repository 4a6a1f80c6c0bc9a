"""Several operators that mean one: ONNX's own where it has it, else a function of domain `porter`."""
