import type { ImageRecipe } from "../../cli/image/recipe.ts";

/** llama.cpp's HTTP server, as Debian builds it. Which packages that are, to the byte, is in the lock files beside this one; `edgeseal image lock` writes them. */
export const llamaServer: ImageRecipe = {
  name: "llama-server",
  title: "llama.cpp's llama-server, from Debian's packages",
  // Debian 13 has no llama.cpp; what is in the image needs nothing of the node but its kernel.
  suite: "sid",
  packages: ["llama.cpp-tools", "base-files"],
  versionOf: "llama.cpp-tools",
  program: "/usr/bin/llama-server",
  // Opened at run time, the one that fits the processor: the list of what the program links does not name them.
  plugins: /^\/usr\/lib\/[^/]+\/ggml\/backends\d*\/libggml-cpu-[^/]+\.so$/,
  // By these a scanner tells which Debian it is looking at.
  files: ["/etc/os-release"],
  folders: ["/dev", "/models", "/proc", "/run/inference", "/sys", "/tmp"],
};
