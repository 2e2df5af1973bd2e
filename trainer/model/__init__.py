"""The model: diffusers' UNet made video-capable, the pose encoder, and the files they come from."""
