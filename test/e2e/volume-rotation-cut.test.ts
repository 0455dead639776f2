import { afterAll, beforeAll, expect, test } from "vitest";
import { recoverVolume } from "../../provider/resources/sealed-volume-plan.ts";
import type { SealedVolumeInputs } from "../../provider/resources/sealed-volume-inputs.ts";
import type { Ran } from "./command-line.ts";
import { bringUp, cutPowerAt, cutsOf, nameOf } from "./provider-on-pi.ts";
import { SealedNode } from "./sealed-node.ts";

/*
 * The rotation of a sealed volume's key slot with the power cut: before and after every step of the plan, and before every write of the step that changes the header. `recover` is
 * the same plan, for a volume that its TPM does not open. Wherever it goes, the next boot opens the volume, and the next plan has nothing to ask of a person.
 */

let node: SealedNode;

beforeAll(async () => {
  node = await SealedNode.start();
  node.declareSite({ endorsementKeySha256: await node.endorsementKeySha256() });
});

// It does not exist when its start failed.
afterAll(() => (node as SealedNode | undefined)?.stop());

const rotate = (): Promise<Ran> => node.edgeseal("volume", "rotate", "pi-1", ...node.keys, "--yes");

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
*" of=/dev/vd"* | *" of=/etc/edgeseal/volumes/models.header "* | *" /etc/edgeseal/volumes/models.header" | *" /etc/edgeseal/volumes/models.pins")
  echo "${program} $*" >>/run/writes
  if [ "$(wc -l </run/writes)" = "$(cat /run/held 2>/dev/null)" ]; then
    if [ -e /run/torn ]; then /usr/bin/${program} "$@" count=4608; fi
    echo "WRITE IS HELD" >/dev/console
    exec sleep 3600
  fi ;;
esac
exec /usr/bin/${program} "$@"
`;

/** What each write of a rotation is, by how its command begins or where on the disk it writes, and what a refresh finds after it; in their order. */
const writes = [
  { write: "the header to a file", command: /^mv .*models\.header$/, left: "pinned, unfinished" },
  { write: "the pins", command: /^mv .*models\.pins$/, left: "differs, unfinished" },
  { write: "the slots", command: / seek=290816 /, left: "differs, unfinished" },
  { write: "the first copy of what the header says", command: / seek=0 /, left: "differs, unfinished" },
  { write: "the second copy", command: / seek=16384 /, left: "pinned, unfinished" },
  {
    write: "zeros to the header's file",
    command: /^dd if=\/dev\/zero .*models\.header/,
    left: "pinned, unfinished",
  },
  { write: "the removal of the header's file", command: /^rm .*models\.header$/, left: "pinned, unfinished" },
] as const;

test("there are no other writes than those, before each of which the power is cut", async () => {
  for (const program of ["dd", "mv", "rm"]) {
    const { code } = await node.pi.exec(
      `sudo -n sh -c 'cat >/usr/sbin/${program} && chmod 755 /usr/sbin/${program} && sync'`,
      { stdin: holding(program) },
    );
    expect(code).toBe(0);
  }
  const { code, text } = await rotate();
  expect(code, text).toBe(0);
  const lines = (await node.root("cat /run/writes")).trim().split("\n");
  const found = lines.map((line) => writes.find(({ command }) => command.test(line))?.write ?? line);
  expect(found).toEqual(writes.map(({ write }) => write));
});

const moments = writes.flatMap(({ write }, index) => {
  // What the writes before it leave; the first one leaves a file that has not its name yet.
  const left = writes[index - 1]?.left ?? "pinned, unfinished";
  const before = { moment: `before ${write}`, held: index + 1, torn: false, left };
  return write.startsWith("the first copy")
    ? [before, { ...before, moment: `within ${write}`, torn: true }]
    : [before];
});

/** Rotates, and cuts the power at that moment; and boots. */
async function cutAndBoot({ held, torn }: (typeof moments)[number]): Promise<void> {
  await node.root(`rm -f /run/writes /run/torn; echo ${held} >/run/held${torn ? "; touch /run/torn" : ""}`);
  const from = node.pi.console.position();
  const cut = rotate();
  let isHeld = false;
  const early = cut.then((ran) => isHeld || expect.fail(`it ended before write ${held}: ${ran.text}`));
  await Promise.race([node.pi.console.waitFor(/WRITE IS HELD/, { from, timeoutMs: 300_000 }), early]);
  isHeld = true;
  await node.pi.powerCut();
  const { code, text } = await cut;
  expect(code, text).toBe(1);
  expect(text).toMatch(/^ {2}models: not done: /m);
  await node.pi.boot();
}

test.each(moments)(
  "the power cut $moment: the next boot opens the volume, and the next `up` goes on",
  async (moment) => {
    await cutAndBoot(moment);
    const { headerMatchesPins, headerUnfinished, headerDifferences } = await node.expectOpen();
    expect(headerDifferences).toEqual([]);
    expect(`${headerMatchesPins ? "pinned" : "differs"}${headerUnfinished ? ", unfinished" : ""}`).toBe(
      moment.left,
    );
    await bringUp(node.pi, node.volume);
    expect(await node.look()).toMatchObject({ headerMatchesPins: true, headerUnfinished: false });
    expect(await node.root("ls -A /etc/edgeseal/volumes")).not.toContain("models.header");
  },
);

test("without the header's file the same cut leaves the volume locked; with it back, it opens", async () => {
  const torn = moments.find((moment) => moment.torn) ?? expect.fail("none");
  await cutAndBoot(torn);
  await node.expectOpen();
  await node.root("mv /etc/edgeseal/volumes/models.header /root/aside && sync");
  await node.pi.reboot();
  expect(await node.look()).toMatchObject({
    open: false,
    lockedReason: expect.stringMatching(/^header-differs: /) as unknown,
    pcr11Approved: true,
    pcr15Capped: true,
  });
  await node.root("mv /root/aside /etc/edgeseal/volumes/models.header && sync");
  await node.pi.reboot();
  await node.expectOpen();
});

test("rotated once more from there, it is whole, with its file, and the next boot opens it", async () => {
  const { code, text } = await rotate();
  expect(code, text).toBe(0);
  expect(await node.look()).toMatchObject({ open: true, headerMatchesPins: true, headerUnfinished: false });
  expect(await node.root("ls -A /run/edgeseal")).not.toContain("pin.");
  // What a power cut after a challenge would count as, had the challenge used what that protects: by now the TPM would be locked, and answer none.
  expect(await node.root("tpm2_getcap properties-variable")).toMatch(/LOCKOUT_COUNTER: 0x0$/m);
  await node.expectFile();
  await node.pi.reboot();
  await node.expectOpen();
});
