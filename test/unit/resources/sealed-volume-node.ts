import { spawnSync } from "node:child_process";
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import type { PartOutput } from "../../../provider/device/probe.ts";
import type { Step } from "../../../provider/device/step.ts";
import { sealedVolume } from "../../../provider/resources/sealed-volume.ts";
import type { SealedVolumeInputs } from "../../../provider/resources/sealed-volume-inputs.ts";
import type { SealedVolumeState } from "../../../provider/resources/sealed-volume-state.ts";
import { zeroPcr } from "../../../provider/trust/pcr.ts";

/** A step, or its precondition, failed. */
export class StepFailed extends Error {
  override readonly name = "StepFailed";
}

export const deviceBytes = 64 * 1024 * 1024;
export const headerBytes = 16 * 1024 * 1024;
export const device = "/dev/disk/by-id/virtio-model";

/** Commands that change something: the power can be cut before each of them. */
const mutating = ["dd", "mv", "sync", "wipefs", "rm", "mkdir", "openssl", "sed"] as const;
/** Commands that need a kernel of their own, and are played by `sealed-volume-commands.ts`. */
const played = ["cryptsetup", "systemd-cryptenroll", "systemd-cryptsetup"] as const;

/** Of the played commands: it takes two thirds off what each of them costs. */
const compileCache = join(import.meta.dirname, "../../../node_modules/.cache/compile");

/** Those that take no more than a line of shell; `$last` is their last argument. */
const short = {
  dmsetup: 'cat "$ROOT/dm-table"',
  mountpoint: `awk -v place="$last" '$5 == place { found = 1 } END { exit !found }' "$ROOT/proc/self/mountinfo"`,
  mount: `case " $* " in
*" ramfs "*) echo "50 1 0:44 / $last rw - ramfs edgeseal-keys rw" >>"$ROOT/proc/self/mountinfo"; exit ;;
esac
if [ -e "$ROOT/mount-fails" ]; then echo 'mount: wrong fs type, bad option, bad superblock' >&2; exit 32; fi
type=ext4 options=
while [ $# -gt 0 ]; do case $1 in -t) type=$2 ;; -o) options=\${2#remount,} ;; esac; shift; done
sed -i "\\|^60 |d" "$ROOT/proc/self/mountinfo"
echo "60 1 252:0 / $last $options - $type /dev/mapper/x \${options##*,}" >>"$ROOT/proc/self/mountinfo"`,
  umount: `sed -i "\\| $last |d" "$ROOT/proc/self/mountinfo"
case $last in */run/edgeseal/keys) rm -r "$last" ;; esac`,
} as const;

/** The header's JSON, and those of its fields that are looked at. */
const luksDump = `at=0
field() { dd if="$last" bs=1 skip=$((at + $1)) count="$2" status=none | tr -d '\\000'; }
if [ "$(field 0 4)" != LUKS ]; then at=16384; fi
case $(field 0 4) in LUKS | SKUL) ;; *) echo "Device $last is not a valid LUKS device." >&2; exit 1 ;; esac
case " $* " in
*" --dump-json-metadata "*) dd if="$last" bs=4096 skip=$((at / 4096 + 1)) count=3 status=none | tr -d '\\000' ;;
*) printf 'LUKS header information\nVersion:\t2\nEpoch:         \t%s\nUUID:          \t%s\nLabel:         \t%s\nSubsystem:     \t(no subsystem)\nFlags:       \t(no flags)\n' \
  "$((0x$(dd if="$last" bs=1 skip=$((at + 16)) count=8 status=none | od -An -tx1 | tr -d ' ')))" "$(field 168 40)" "$(field 24 48)" ;;
esac`;

const count = `echo "$0 $*" >>"$ROOT/commands"
if [ -n "\${MOMENTS-}" ]; then "$ROOT/bin/moment"; fi`;

/** Keeps what is on the disks at this moment, as a power cut would leave it. */
const moment = `PATH=/usr/sbin:/usr/bin:/sbin:/bin
mkdir -p "$ROOT/moments"
stamp=$ROOT/moments.stamp
set -- "$ROOT/dev/vdb" "$ROOT/var/lib/edgeseal/volumes" "$ROOT/etc/edgeseal/volumes" "$ROOT/etc/edgeseal/trust"
[ ! -d "$ROOT/secrets" ] || set -- "$@" "$ROOT/secrets"
[ ! -e "$ROOT/dev/vdb1" ] || set -- "$@" "$ROOT/dev/vdb1"
# Nothing was written since the last one. A file's time may be a tick of the clock behind.
if [ -e "$stamp" ] && [ -z "$(find "$@" -newer "$stamp")" ]; then exit 0; fi
touch -d '-0.05 seconds' "$stamp"
moment=$ROOT/moments/$(ls "$ROOT/moments" | wc -l)
mkdir "$moment" 2>/dev/null || exit 0
head -c 17M "$ROOT/dev/vdb" >"$moment/vdb"
if [ -e "$ROOT/dev/vdb1" ]; then cp "$ROOT/dev/vdb1" "$moment/vdb1"; fi
cp -a "$ROOT/var/lib/edgeseal/volumes" "$moment/records"
cp -a "$ROOT/etc/edgeseal/volumes" "$moment/settings"
cp -a "$ROOT/etc/edgeseal/trust" "$moment/trust"
if [ -d "$ROOT/secrets" ]; then cp -a "$ROOT/secrets" "$moment/secrets"; fi`;

/**
 * A directory that stands for a node with a blank disk of 64 MiB and a TPM. Probes, steps and the unlock program run in it for real, in `sh`, with the node's paths rewritten
 * and what needs a kernel of its own played by `sealed-volume-commands.ts`.
 */
export class VolumeNode {
  readonly root = mkdtempSync(join(tmpdir(), "edgeseal-volume-"));
  /** Further variables for what is run. */
  readonly environment: Record<string, string> = {};
  /** What steps that only warn said. */
  readonly warnings: string[] = [];

  constructor() {
    this.write("/bin/.keep", "");
    const tool = (name: string, script: string): void => {
      this.write(`/bin/${name}`, `#!/bin/sh\n${script}\n`);
      chmodSync(join(this.root, "bin", name), 0o755);
    };
    // A plain file is no whole disk, on which alone wipefs takes a partition table away unless it is forced.
    const forced = (name: string): string => (name === "wipefs" ? `${name} --force` : name);
    for (const name of mutating)
      tool(name, `${count}\nPATH=/usr/sbin:/usr/bin:/sbin:/bin exec ${forced(name)} "$@"`);
    const player = join(import.meta.dirname, "sealed-volume-commands.ts");
    tool("moment", moment);
    const last = "for last; do :; done\nPATH=/usr/sbin:/usr/bin:/sbin:/bin";
    for (const name of played) {
      const inShell =
        name === "cryptsetup" ? `if [ "$1" = luksDump ]; then\n${last}\n${luksDump}\nexit\nfi\n` : "";
      tool(
        name,
        `${inShell}${count}\nNODE_COMPILE_CACHE='${compileCache}' exec '${process.execPath}' '${player}' ${name} "$@"`,
      );
    }
    for (const [name, script] of Object.entries(short)) tool(name, `${count}\n${last}\n${script}`);
    // The start of the data is where the file system begins: it takes the marker's place.
    tool(
      "mkfs.ext4",
      `${count}\nfor last; do :; done\nPATH=/usr/sbin:/usr/bin:/sbin:/bin mkfs.ext4 "$@" && dd if="$last" of="$ROOT/dev/vdb" bs=1M count=1 seek=16 conv=notrunc status=none`,
    );
    tool("e2fsck", 'exit "${FSCK:-0}"');
    // Waiting is over at once.
    tool(
      "sleep",
      'read -r now _ <"$ROOT/proc/uptime"\necho "$((${now%%.*} + 10)).00 0" >"$ROOT/proc/uptime"',
    );
    tool(
      "systemctl",
      `case $1 in
enable)
  shift
  for unit; do
    for wants in $(sed -n 's/^WantedBy=//p' "$ROOT/etc/systemd/system/$unit"); do
      mkdir -p "$ROOT/etc/systemd/system/$wants.wants"
      ln -sf "../$unit" "$ROOT/etc/systemd/system/$wants.wants/$unit"
    done
  done ;;
is-enabled) echo enabled ;;
esac`,
    );
    for (const name of ["chattr", "udevadm"]) tool(name, "exit 0");
    this.write("/proc/self/mountinfo", "29 1 254:2 / / rw - ext4 /dev/vda2 rw\n");
    this.write("/proc/swaps", "Filename Type Size Used Priority\n");
    this.write("/proc/uptime", "20.00 30.00\n");
    this.write("/proc/cpuinfo", "processor\t: 0\nFeatures\t: fp asimd evtstrm aes pmull sha1 sha2 crc32\n");
    this.write("/proc/sys/kernel/random/uuid", "0a1b2c3d-1111-4222-8333-444455556666\n");
    this.addDisk();
    this.setPcr(11, zeroPcr);
    this.setPcr(15, zeroPcr);
    this.write("/dev/tpmrm0", "");
    this.write("/tpm-opens", "");
    for (const path of [
      "/usr/sbin/cryptsetup",
      "/usr/sbin/dmsetup",
      "/usr/bin/openssl",
      "/usr/sbin/mkfs.xfs",
      "/usr/lib/systemd/systemd-cryptsetup",
      ...["esys", "mu", "rc", "tcti-device"].map((name) => `/usr/lib/aarch64-linux-gnu/libtss2-${name}.so.0`),
    ])
      this.write(path, "");
    for (const path of ["/etc/systemd/system", "/run/edgeseal", "/srv"])
      mkdirSync(join(this.root, path), { recursive: true });
  }

  /** Connects a blank disk, in place of the one that was there. */
  addDisk(): void {
    const sys = "/sys/class/block/vdb";
    this.write("/dev/vdb", "");
    truncateSync(join(this.root, "dev/vdb"), deviceBytes);
    this.write(`${sys}/size`, `${deviceBytes / 512}\n`);
    this.write(`${sys}/ro`, "0\n");
    this.write(`${sys}/dev`, "254:16\n");
    this.write(`${sys}/uevent`, "MAJOR=254\nMINOR=16\nDEVNAME=vdb\n");
    mkdirSync(join(this.root, sys, "holders"), { recursive: true });
    this.link("/sys/dev/block/254:16", "../../class/block/vdb");
    this.link(device, "../../vdb");
  }

  write(path: string, content: string | Buffer): void {
    const real = join(this.root, path);
    mkdirSync(dirname(real), { recursive: true });
    writeFileSync(real, content);
  }

  link(path: string, target: string): void {
    const real = join(this.root, path);
    mkdirSync(dirname(real), { recursive: true });
    rmSync(real, { force: true });
    symlinkSync(target, real);
  }

  read(path: string): string {
    return readFileSync(join(this.root, path), "utf8").replaceAll(this.root, "");
  }

  bytes(path: string): Buffer {
    return readFileSync(join(this.root, path));
  }

  exists(path: string): boolean {
    return existsSync(join(this.root, path));
  }

  remove(path: string): void {
    rmSync(join(this.root, path), { recursive: true, force: true });
  }

  setPcr(pcr: number, value: string): void {
    this.write(`/sys/class/tpm/tpm0/pcr-sha256/${pcr}`, `${value.toUpperCase()}\n`);
  }

  /** Mutating commands that were run so far. */
  get commands(): readonly string[] {
    return this.exists("/commands") ? this.read("/commands").trim().split("\n") : [];
  }

  #rewritten(script: string): string {
    return script
      .replaceAll(/\/usr\/lib\/edgeseal\/([a-z0-9-]+)(?= --)/g, `sh ${this.root}/rewritten/$1`)
      .replaceAll("/usr/lib/systemd/systemd-cryptsetup attach", "systemd-cryptsetup attach")
      .replaceAll(/(?<![\w.}\]/$])\/(etc|run|sys|proc|var|usr)(?=\/)/g, `${this.root}/$1`)
      .replaceAll(/(?<![\w.}])\/dev\/(?!null|zero|urandom|stdin)/g, `${this.root}/dev/`)
      .replaceAll(/PATH=\S*:\/bin/g, `PATH=${this.root}/bin:/usr/sbin:/usr/bin:/sbin:/bin`)
      .replaceAll("[ -b ", "[ -e ")
      .replaceAll("await -b ", "await -e ")
      .replaceAll("iflag=direct,", "iflag=")
      .replaceAll('$(stat -c %t -- "$dev")', "fe")
      .replaceAll('$(stat -c %T -- "$dev")', "10")
      .replaceAll("%a %U:%G", "%a root:root")
      .replaceAll(
        'mount_point=$(value "$conf" mount-point)',
        `mount_point=${this.root}$(value "$conf" mount-point)`,
      );
  }

  sh(script: string, input = ""): PartOutput {
    const result = spawnSync("sh", ["-c", `set -u\ncd /\n( eval "$SCRIPT" )`], {
      env: {
        SCRIPT: this.#rewritten(script),
        ROOT: this.root,
        LC_ALL: "C",
        PATH: `${this.root}/bin:/usr/sbin:/usr/bin:/sbin:/bin`,
        ...this.environment,
      },
      input,
      encoding: "utf8",
    });
    return {
      code: result.status ?? -1,
      stdout: result.stdout.replaceAll(this.root, ""),
      stderr: result.stderr.trim().replaceAll(this.root, ""),
    };
  }

  observe(inputs: SealedVolumeInputs): SealedVolumeState {
    const probe = sealedVolume.observe(inputs);
    const observed = probe.parse(
      Object.fromEntries(Object.entries(probe.parts).map(([name, script]) => [name, this.sh(script)])),
    );
    if (observed.outcome !== "present") throw new Error("not observed");
    return observed.state;
  }

  plan(inputs: SealedVolumeInputs): readonly Step[] {
    const route = {
      clientAddress: undefined,
      clientPort: undefined,
      serverAddress: undefined,
      serverPort: undefined,
    };
    return sealedVolume.plan(inputs, { outcome: "present", state: this.observe(inputs) }, route);
  }

  /** Does what a step says, its precondition checked first. */
  apply(step: Step): void {
    const must = (script: string, what: string, stdin?: string): void => {
      const { code, stderr } = this.sh(script, stdin);
      if (code !== 0) throw new StepFailed(`${what}: ${stderr}`);
    };
    if (step.kind !== "reboot" && step.precondition !== undefined)
      must(step.precondition, `precondition of '${step.title}'`);
    switch (step.kind) {
      case "file":
        this.write(step.path, step.content);
        chmodSync(join(this.root, step.path), Number.parseInt(step.mode, 8));
        if (step.path.startsWith("/usr/lib/edgeseal/"))
          this.write(
            `/rewritten/${step.path.slice("/usr/lib/edgeseal/".length)}`,
            this.#rewritten(step.content),
          );
        return;
      case "directory":
        mkdirSync(join(this.root, step.path), { recursive: true });
        return;
      case "remove":
        this.remove(step.path);
        return;
      case "run":
        if (step.title.startsWith("cap PCR 15")) this.setPcr(15, "ab".repeat(32));
        else if (step.onFailure === "warn") {
          const { code, stderr } = this.sh(step.script, step.stdin);
          if (code !== 0) this.warnings.push(stderr);
        } else must(step.script, `'${step.title}'`, step.stdin);
        return;
      default:
        throw new Error(`no fake for a step of kind ${step.kind}`);
    }
  }

  applyAll(steps: readonly Step[]): void {
    for (const step of steps) this.apply(step);
  }

  /** Forms the volume. Returns the moments of it. */
  formWithMoments(inputs: SealedVolumeInputs): readonly string[] {
    const steps = this.plan(inputs);
    const first = steps.findIndex(({ title }) => title.startsWith("make the recovery key"));
    this.applyAll(steps.slice(0, first));
    return this.applyWithMoments(steps.slice(first));
  }

  /** Applies steps, and keeps what was on the disks before each command that changes something. Returns the moments that differ, in order. */
  applyWithMoments(steps: readonly Step[]): readonly string[] {
    this.environment["MOMENTS"] = "1";
    this.applyAll(steps);
    Reflect.deleteProperty(this.environment, "MOMENTS");
    const seen = new Set<string>();
    return readdirSync(join(this.root, "moments"))
      .sort((a, b) => Number(a) - Number(b))
      .filter((name) => {
        const folder = join(this.root, "moments", name);
        const { stdout } = spawnSync(
          "sh",
          ["-c", "find . -type f ! -name '*.new' | sort | xargs sha256sum"],
          {
            cwd: folder,
            encoding: "utf8",
          },
        );
        return !seen.has(stdout) && seen.add(stdout);
      });
  }

  /** The power comes back after it went at that moment. */
  returnTo(name: string): void {
    this.restart();
    const folder = `/moments/${name}`;
    this.remove("/dev/vdb");
    const kept = {
      records: "/var/lib/edgeseal/volumes",
      settings: "/etc/edgeseal/volumes",
      trust: "/etc/edgeseal/trust",
      secrets: "/secrets",
    };
    for (const [from, to] of Object.entries(kept)) {
      this.remove(to);
      if (this.exists(join(folder, from)))
        cpSync(join(this.root, folder, from), join(this.root, to), { recursive: true });
    }
    // Nothing is written behind the header and the first of the data.
    cpSync(join(this.root, folder, "vdb"), join(this.root, "dev/vdb"));
    truncateSync(join(this.root, "dev/vdb"), deviceBytes);
    if (this.exists(join(folder, "vdb1")))
      cpSync(join(this.root, folder, "vdb1"), join(this.root, "dev/vdb1"));
  }

  /** What a boot leaves: memory is empty, nothing is mapped or mounted, the TPM was reset. */
  restart(): void {
    this.remove("/run");
    mkdirSync(join(this.root, "run/edgeseal"), { recursive: true });
    this.write("/proc/self/mountinfo", "29 1 254:2 / / rw - ext4 /dev/vda2 rw\n");
    for (const path of ["/dev/mapper", "/sys/block/dm-0", "/sys/class/block/dm-0", "/commands"])
      this.remove(path);
    this.remove("/sys/class/block/vdb/holders/dm-0");
    this.setPcr(15, zeroPcr);
  }

  /** A boot, with the unlock unit and the cap in their turn. */
  boot(): PartOutput {
    this.restart();
    const unlocked = this.sh(`sh ${this.root}/rewritten/unlock-volumes`);
    this.setPcr(15, "ab".repeat(32));
    return unlocked;
  }

  [Symbol.dispose](): void {
    rmSync(this.root, { recursive: true, force: true });
  }
}
