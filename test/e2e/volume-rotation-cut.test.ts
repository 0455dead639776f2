import { afterAll, beforeAll, expect, test } from "vitest";
import { planVolume, recoverVolume } from "../../provider/resources/sealed-volume-plan.ts";
import type { SealedVolumeInputs } from "../../provider/resources/sealed-volume-inputs.ts";
import type { Ran } from "./command-line.ts";
import { cutPowerAt, cutsOf, nameOf } from "./provider-on-pi.ts";
import { SealedNode } from "./sealed-node.ts";

/*
 * The rotation of a sealed volume's key slot with the power cut: before and after every step of the plan, and before every write of the step that changes the header. `recover` is
 * the same plan, for a volume that its TPM does not open.
 */

let node: SealedNode;

beforeAll(async () => {
  node = await SealedNode.start();
  node.declareSite({ endorsementKeySha256: await node.endorsementKeySha256() });
});

// It does not exist when its start failed.
afterAll(() => (node as SealedNode | undefined)?.stop());

const onVolumes = (task: "recover" | "rotate"): Promise<Ran> =>
  node.edgeseal("volume", task, "pi-1", ...node.keys, "--yes");

test("the power cut before or after a step: the next boot opens the volume", async () => {
  const key = await node.recoveryKey();
  const inputs = node.volume.inputs as SealedVolumeInputs;
  let state = await node.look();
  const cuts = cutsOf(recoverVolume(inputs, state, key));
  expect(cuts.map(nameOf)).toEqual([
    "before 'seal models to the TPM anew, and open it'",
    "before 'mount models at /srv/models'",
    "after 'mount models at /srv/models'",
  ]);
  const slots = new Set<string>();
  for (const cut of cuts) {
    await cutPowerAt(cut, node.pi, node.volume, recoverVolume(inputs, state, key));
    await node.pi.boot();
    state = await node.expectOpen();
    slots.add(state.headerDigest);
  }
  // As it was; sealed anew; and once more.
  expect(slots.size).toBe(3);
});

/**
 * Stands before a program of the node's, which it becomes. Writes of a rotation are counted in /run/writes; the one whose number is in /run/held is not done, or where there is
 * /run/torn, done in half, and the console told.
 */
const holding = (program: string): string => `#!/bin/sh
case "$*" in
*" of=/dev/vd"* | *" /etc/edgeseal/volumes/models.pins")
  echo "${program} $*" >>/run/writes
  if [ "$(wc -l </run/writes)" = "$(cat /run/held 2>/dev/null)" ]; then
    if [ -e /run/torn ]; then /usr/bin/${program} "$@" count=4608; fi
    echo "WRITE IS HELD" >/dev/console
    exec sleep 3600
  fi ;;
esac
exec /usr/bin/${program} "$@"
`;

/** The writes of a rotation, in their order: the slots but the recovery key's; one copy of what the header says; the other; the pins. */
const writes = ["header at 290816", "header at 0", "header at 16384", "pins"] as const;

test("there are no other writes than those, before each of which the power is cut", async () => {
  for (const program of ["dd", "mv"]) {
    const { code } = await node.pi.exec(
      `sudo -n sh -c 'cat >/usr/sbin/${program} && chmod 755 /usr/sbin/${program} && sync'`,
      { stdin: holding(program) },
    );
    expect(code).toBe(0);
  }
  const { code, text } = await onVolumes("rotate");
  expect(code, text).toBe(0);
  const lines = (await node.root("cat /run/writes")).trim().split("\n");
  const found = lines.map((line) =>
    line.startsWith("mv ") ? "pins" : `header at ${/ seek=(\d+) /.exec(line)?.[1] ?? line}`,
  );
  expect(found).toEqual(writes);
});

const moments = writes.flatMap((write, index) => {
  const before = { moment: `before '${write}'`, held: index + 1, torn: false };
  return write === "header at 0"
    ? [before, { ...before, moment: `within '${write}'`, torn: true }]
    : [before];
});

// Each goes on from where the one before was cut off.
test.each(moments)(
  "the power cut $moment: the volume is as it was, or stays locked and says why",
  async ({ held, torn }) => {
    await node.root(`rm -f /run/writes; echo ${held} >/run/held${torn ? "; touch /run/torn" : ""}`);
    const from = node.pi.console.position();
    // What is open needs no recovery.
    const cut = onVolumes(held <= 2 ? "rotate" : "recover");
    let isHeld = false;
    const early = cut.then((ran) => isHeld || expect.fail(`it ended before write ${held}: ${ran.text}`));
    await Promise.race([node.pi.console.waitFor(/WRITE IS HELD/, { from, timeoutMs: 300_000 }), early]);
    isHeld = true;
    await node.pi.powerCut();
    const { code, text } = await cut;
    expect(code, text).toBe(1);
    expect(text).toMatch(/^ {2}models: not done: /m);
    await node.pi.boot();
    if (held === 1) {
      await node.expectOpen();
      return;
    }
    const state = await node.look();
    expect(state).toMatchObject({
      open: false,
      lockedReason: expect.stringMatching(/^header-differs: /) as unknown,
      pcr11Approved: true,
      pcr15Capped: true,
    });
    // What `pulumi up` says.
    expect(() => planVolume(node.volume.inputs as SealedVolumeInputs, state)).toThrow(
      /the header of models on .* is not the pinned one/,
    );
  },
);

test("run again to its end, the volume is open with its file, and the next boot opens it", async () => {
  const { code, text } = await onVolumes("recover");
  expect(text).toContain("in the TPM's slot only: as a recovery that was cut off leaves it");
  expect(code, text).toBe(0);
  expect(await node.look()).toMatchObject({ open: true, headerMatchesPins: true });
  expect(await node.root("ls -A /run/edgeseal")).not.toContain("pin.");
  // What a power cut after a challenge would count as, had the challenge used what that protects: by now the TPM would be locked, and answer none.
  expect(await node.root("tpm2_getcap properties-variable")).toMatch(/LOCKOUT_COUNTER: 0x0$/m);
  await node.expectFile();
  await node.pi.reboot();
  await node.expectOpen();
});
