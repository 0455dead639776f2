import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { run } from "../../testbed/bound-process.ts";
import { UserError } from "../errors.ts";
import type { Wheel } from "./catalogue.ts";

/**
 * Has pip fetch, verify and unpack wheels, from the index and through the proxy that it is configured with. Only unpacked: wheels run no code when they are
 * installed, and what is no wheel is refused.
 * @param folder Is there; gets the wheels' files.
 * @throws UserError
 */
export async function unpackWheels(
  wheels: readonly Wheel[],
  folder: string,
  signal: AbortSignal | undefined,
): Promise<void> {
  const requirements = join(folder, "requirements.txt");
  const lines = wheels.map(({ name, version, sha256 }) => `${name}==${version} --hash=sha256:${sha256}\n`);
  await writeFile(requirements, lines.join(""));
  const [program, ...words] = await pip();
  const options = [
    ...["install", "--quiet", "--disable-pip-version-check", "--no-input", "--no-deps", "--no-compile"],
    ...["--only-binary", ":all:", "--require-hashes", "--target", folder, "--requirement", requirements],
  ];
  await run(program, [...words, ...options], { signal }).catch((error: unknown) => {
    signal?.throwIfAborted();
    const said = (error as Error).message.split("\n").filter((line) => /error|hash|expected|got/i.test(line));
    throw new UserError(
      `pip can't fetch ${wheels.map(({ name }) => name).join(", ")}\n${said.slice(1).join("\n")}`,
      {
        cause: error,
        hint: "which index pip asks is its own configuration: pip config list",
      },
    );
  });
}

const candidates = [["python3", "-m", "pip"], ["pip3"], ["pip"]] as const;

/** @throws UserError */
async function pip(): Promise<readonly [string, ...string[]]> {
  for (const [program, ...words] of candidates) {
    const works = await run(program, [...words, "--version"]).then(
      () => true,
      () => false,
    );
    if (works) return [program, ...words];
  }
  throw new UserError("pip is not there, and it is what fetches the model", {
    hint: "sudo apt-get install python3-pip",
  });
}
