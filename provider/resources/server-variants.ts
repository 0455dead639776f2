/** Servers that a unit and its profiles are known for: llama.cpp's own, ollama, and hailo-ollama on the accelerator of an AI HAT. The first is the strictest, and the default. */
export const variants = ["llama-server", "ollama", "hailo"] as const;
export type Variant = (typeof variants)[number];
