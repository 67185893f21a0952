"""The CUDA plug-in of unils-sdk. Nothing to import: `unils_sdk` finds `lib/libunils_cuda.so` beside this file."""
