import { noDrift } from "../refresh.ts";
import type { DemoStep } from "../step.ts";
import { refreshSaysWhyLocked } from "./locked.ts";
import { bothLocked, bothOpen, volumesAre } from "./volumes.ts";
import { whileOff } from "../while-off.ts";

interface Change {
  readonly what: string;
  /** On the boot partition. */
  readonly path: string;
  readonly change: (content: Buffer) => Buffer;
  /** Why the volumes are locked: this was measured otherwise than approved, and nothing else. */
  readonly why: RegExp;
}

const changes: readonly Change[] = [
  {
    what: "the kernel command line got a root shell",
    path: "cmdline.txt",
    change: (content) => Buffer.from(`${content.toString().trim()} systemd.debug_shell=1\n`),
    why: /^pcr11-not-approved: .*; against the nearest approved state: (changed file cmdline\.txt, changed cmdline)$/,
  },
  {
    what: "config.txt got another line",
    path: "config.txt",
    change: (content) => Buffer.concat([content, Buffer.from("dtparam=uart0=on\n")]),
    why: /^pcr11-not-approved: .*; against the nearest approved state: (changed file config\.txt)$/,
  },
  {
    what: "the initramfs got another archive",
    path: "initramfs_2712",
    // As for another archive behind it, whose files would win.
    change: (content) => Buffer.concat([content, Buffer.alloc(512)]),
    why: /^pcr11-not-approved: .*; against the nearest approved state: (changed file initramfs_2712)$/,
  },
];

export const changedBoot: DemoStep = {
  title: "A changed boot keeps them locked",
  proves:
    "with the kernel command line, config.txt or the initramfs changed while the node was off the volumes stay locked, ssh answers, and pulumi refresh names the event; with the original back they open",
  async run(context) {
    const originals = new Map<string, Buffer>();
    for (const change of [...changes, undefined]) {
      const what = change?.what ?? "everything was put back";
      await whileOff(context, what, async ({ boot }) => {
        for (const { path } of changes) {
          const original = originals.get(path) ?? (await boot.read(path));
          originals.set(path, original);
          await boot.write(path, change?.path === path ? change.change(original) : original);
        }
      });
      if (change === undefined) continue;
      await volumesAre(context, bothLocked);
      await refreshSaysWhyLocked(context, { models: change.why, logs: change.why });
    }
    await volumesAre(context, bothOpen);
    await noDrift(context);
  },
};
