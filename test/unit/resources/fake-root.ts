import { spawnSync } from "node:child_process";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import type { PartOutput, Probe } from "../../../provider/device/probe.ts";
import type { Step } from "../../../provider/device/step.ts";

/** Where an absolute path of a device begins in a fragment: after white space, a quote, or what may stand before a word. Not inside a regex. */
const devicePath =
  /(?<=^|[\s"'=(>])\/(boot|etc|home|run|usr|sys|var|proc|swapfile|swap\.img|swap|core)(?=[/\s"'.;)*]|$)/gm;

/** What `systemctl` does to files, as far as plans rely on it. Each call is noted in /calls. */
const systemctl = `#!/bin/sh
echo "systemctl $*" >> "$ROOT/calls"
verb=$1
shift
if [ "\${1-}" = -- ]; then shift; fi
case "$verb" in
  mask) for unit; do ln -sf /dev/null "$ROOT/etc/systemd/system/$unit"; done ;;
  disable) for unit; do rm -f "$ROOT"/etc/systemd/system/*.wants/"$unit"; done ;;
  is-active) exit 3 ;;
  show) echo "DefaultLimitCORE=$(cat "$ROOT/default-limit-core")" ;;
  daemon-reload) if [ -e "$ROOT/on-reload" ]; then . "$ROOT/on-reload"; fi ;;
esac
`;

const swapoff = `#!/bin/sh
echo "swapoff $*" >> "$ROOT/calls"
for area; do :; done
sed -i "\\\\#^$area[[:space:]]#d" "$ROOT/proc/swaps"
`;

const losetup = `#!/bin/sh
echo "losetup $*" >> "$ROOT/calls"
rm "$ROOT/sys/block/$(basename "$2")/loop/backing_file"
`;

const noted = (name: string): string => `#!/bin/sh\necho "${name} $*" >> "$ROOT/calls"\n`;

/**
 * A directory that stands for a device's root. Probes and steps run in it for real, in `sh`, with the device's paths rewritten and the commands that
 * change a machine replaced.
 */
export class FakeRoot {
  readonly root: string;

  constructor() {
    this.root = mkdtempSync(join(tmpdir(), "edgeseal-root-"));
    for (const [name, script] of Object.entries({ systemctl, swapoff, losetup, udevadm: noted("udevadm") })) {
      this.write(`/bin/${name}`, script);
      chmodSync(join(this.root, "bin", name), 0o755);
    }
    mkdirSync(join(this.root, "etc/systemd/system"), { recursive: true });
    mkdirSync(join(this.root, "usr/lib/systemd/system"), { recursive: true });
  }

  /** Writes a file. In its text `@ROOT` stands for the root: for files that name paths of the device. */
  write(path: string, content: string | Buffer): void {
    const real = join(this.root, path);
    mkdirSync(dirname(real), { recursive: true });
    writeFileSync(real, typeof content === "string" ? content.replaceAll("@ROOT", this.root) : content);
  }

  link(path: string, target: string): void {
    const real = join(this.root, path);
    mkdirSync(dirname(real), { recursive: true });
    symlinkSync(target, real);
  }

  remove(path: string): void {
    rmSync(join(this.root, path), { recursive: true, force: true });
  }

  exists(path: string): boolean {
    return existsSync(join(this.root, path));
  }

  read(path: string): string {
    return readFileSync(join(this.root, path), "utf8").replaceAll(this.root, "");
  }

  /** The commands that were called, one a line. */
  calls(): readonly string[] {
    return this.exists("/calls") ? this.read("/calls").trim().split("\n") : [];
  }

  sh(script: string, stdin = ""): PartOutput {
    const result = spawnSync("sh", ["-c", `set -u\ncd /\n( eval "$SCRIPT" )`], {
      env: {
        SCRIPT: script
          .replaceAll(devicePath, `${this.root}/$1`)
          .replaceAll(/^cd -P -- \/$/gm, `cd -P -- ${this.root}`),
        ROOT: this.root,
        LC_ALL: "C",
        PATH: `${this.root}/bin:/usr/sbin:/usr/bin:/sbin:/bin`,
      },
      input: stdin.replaceAll(devicePath, `${this.root}/$1`),
      encoding: "utf8",
    });
    return {
      code: result.status ?? -1,
      stdout: result.stdout.replaceAll(this.root, ""),
      stderr: result.stderr.trim().replaceAll(this.root, ""),
    };
  }

  observe<T>(probe: Probe<T>): T {
    return probe.parse(
      Object.fromEntries(Object.entries(probe.parts).map(([name, script]) => [name, this.sh(script)])),
    );
  }

  /** Whether a step's precondition holds; `true` without one. */
  holds(step: Step): boolean {
    return step.precondition === undefined || this.sh(step.precondition).code === 0;
  }

  /** Does what a step says, checking its precondition first. */
  apply(step: Step): void {
    if (!this.holds(step)) throw new Error(`the precondition of '${step.title}' does not hold`);
    switch (step.kind) {
      case "file": {
        this.write(step.path, step.content);
        return;
      }
      case "directory":
        mkdirSync(join(this.root, step.path), { recursive: true });
        return;
      case "remove": {
        this.remove(step.path);
        return;
      }
      case "sysctl": {
        this.write(`/proc/sys/${step.key.replaceAll(".", "/")}`, `${step.value}\n`);
        return;
      }
      case "unit":
        if (step.masked === false) this.remove(`/etc/systemd/system/${step.unit}`);
        return;
      case "run": {
        const { code, stderr } = this.sh(step.script, step.stdin);
        if (code !== 0) throw new Error(`'${step.title}' failed: ${stderr}`);
        this.#resetZram();
        return;
      }
      default:
        throw new Error(`no fake for a step of kind ${step.kind}`);
    }
  }

  /** What the kernel does once `1` is written to a zram device's `reset`. */
  #resetZram(): void {
    const blocks = join(this.root, "sys/block");
    if (!existsSync(blocks)) return;
    for (const name of readdirSync(blocks)) {
      if (!this.exists(`/sys/block/${name}/reset`)) continue;
      this.remove(`/sys/block/${name}/reset`);
      this.write(`/sys/block/${name}/disksize`, "0\n");
      this.write(`/sys/block/${name}/backing_dev`, "none\n");
    }
  }

  [Symbol.dispose](): void {
    rmSync(this.root, { recursive: true, force: true });
  }
}
