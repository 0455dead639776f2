import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { layerOf } from "../../../cli/image/layer.ts";
import { imageOf, layoutOf } from "../../../cli/image/oci.ts";
import type { Layout } from "../../../cli/image/archive.ts";
import { llamaServer } from "../../../images/llama-server/recipe.ts";
import { run } from "../../../testbed/bound-process.ts";
import { unpackedProgram } from "../../../testbed/unpacked-program.ts";

/** The image of the server, by its shape, with the probe in the server's place, and once more as another program. */
export async function probeImage(
  labels: Readonly<Record<string, string>> = {},
): Promise<{ readonly layout: Layout; readonly digest: string }> {
  const created = new Date(0);
  const probe = fileOf(0o755, await compiledProbe());
  const files = new Map([
    [llamaServer.program, probe],
    ["/usr/bin/other", probe],
    ["/etc/not-for-the-server", fileOf(0o644, Buffer.from("secret\n"))],
  ]);
  // "/usr/lib" is where libraries would be; "/node" is mounted over where the container sees files of the node.
  const folders = [...llamaServer.folders, "/usr/lib", "/node"];
  const layer = await layerOf({ files, packages: new Map() }, folders, created);
  const sbom = Buffer.from("{}");
  const image = imageOf(layer, sbom, { arch: "amd64", program: llamaServer.program, created, labels });
  return { layout: layoutOf(image, sbom), digest: image.digest };
}

const fileOf = (mode: number, bytes: Buffer) => ({ from: "escape suite", mode, content: { bytes } });

/** Compiled by Debian's tcc, of 0.3 MB, which needs neither a C library nor an installation. */
async function compiledProbe(): Promise<Buffer> {
  const compiler = await unpackedProgram("tcc");
  const folder = await mkdtemp(join(tmpdir(), "edgeseal-probe-"));
  try {
    const program = join(folder, "probe");
    const source = join(import.meta.dirname, "probe.c");
    await run(compiler, ["-Wall", "-Werror", "-nostdlib", "-nostdinc", "-static", "-o", program, source]);
    return await readFile(program);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
