/** Servers that a unit and its profiles are known for: llama.cpp's own, ollama, and hailo-ollama on the accelerator of an AI HAT. The first is the strictest, and the default. */
export const variants = ["llama-server", "ollama", "hailo"] as const;
export type Variant = (typeof variants)[number];

/** How udev names the accelerators that `hailo` serves from. */
export const acceleratorPath = "^/dev/(hailo\\d+|h1x-\\d+)$";
export const defaultAccelerator = "/dev/hailo0";
