import { editLuksHeaders, forgeLuksVolume } from "../../../testbed/luks-header.ts";
import { noDrift } from "../refresh.ts";
import { onNode, type DemoContext, type DemoStep } from "../step.ts";
import { refreshSaysWhyLocked } from "./locked.ts";
import { onDemoNode, succeeded } from "../operator.ts";
import { volumeNames, volumesAre, type VolumeName } from "./volumes.ts";
import { whileOff } from "../while-off.ts";

/** What there is of a header: both copies, and the areas of the key slots in use. The rest was noise when it was made. */
const headerBytes = 2 * 1024 * 1024;

interface Attack {
  readonly what: string;
  readonly edit: (header: Buffer) => Buffer;
  /** The pinned value that a refresh names. */
  readonly why: RegExp;
}

/** What is tried in one boot: at most one attack on each volume, which is judged by itself. */
type Round = Readonly<Partial<Record<VolumeName, Attack>>>;

export const editedHeader: DemoStep = {
  title: "An edited header keeps a volume locked",
  proves:
    "with a null cipher, another key slot, a foreign token, an older header of its own or an attacker's volume in its place a volume stays locked, and pulumi refresh names the pinned value that differs; with the original back it opens",
  async run(context) {
    // What an attacker who had the disk before may have kept. Its key slot is sealed to this TPM and this state: nothing but the pins says that it is of yesterday.
    const older = await headerOf(context, "logs");
    succeeded(
      context,
      "edgeseal volume rotate gives logs a new key slot",
      await onDemoNode(context, ["volume", "rotate"], "logs"),
    );
    const forged = await forgedHeader(context);
    const places = { models: await placeOf(context, "models"), logs: await placeOf(context, "logs") };
    const originals: Partial<Record<VolumeName, Buffer>> = {};
    for (const round of [...rounds(older, forged), {}]) {
      await whileOff(context, headersAre(round), async ({ model }) => {
        for (const volume of volumeNames) {
          const original = (originals[volume] ??= await model.read(places[volume], headerBytes));
          await model.write(places[volume], round[volume]?.edit(original) ?? original);
        }
      });
      await volumesAre(context, {
        models: round.models === undefined ? "open" : "locked",
        logs: round.logs === undefined ? "open" : "locked",
      });
      const attacked = Object.entries(round);
      if (attacked.length === 0) await noDrift(context);
      else
        await refreshSaysWhyLocked(
          context,
          Object.fromEntries(attacked.map(([volume, { why }]) => [volume, why])),
        );
    }
  },
};

const headersAre = (round: Round): string =>
  volumeNames.map((volume) => `${volume} got ${round[volume]?.what ?? "its own header back"}`).join("; ");

/** The last of them leaves one volume its own header, and the boot after it both. */
export const rounds = (older: Buffer, forged: Buffer): readonly Round[] => [
  {
    models: {
      what: "a null cipher",
      edit: withNullCipher,
      why: /^header-differs: .*(segment 0: encryption is cipher_null-ecb, pinned aes-xts-plain64)/,
    },
    logs: {
      what: "another key slot",
      edit: withAnotherSlot,
      why: /^header-differs: .*(key slot \d+ \(luks2\) was added)/,
    },
  },
  {
    models: {
      what: "a foreign token",
      edit: withForeignToken,
      why: /^header-differs: .*(token \d+ \(foreign\) was added)/,
    },
    logs: {
      what: "its header of before the rotation",
      edit: () => older,
      why: /^header-differs: .*(header\.epoch is \d+, pinned \d+)/,
    },
  },
  {
    models: {
      what: "the header of an attacker's volume with its UUID and its token",
      edit: () => forged,
      why: /^header-differs: .*(digest 0: digest is \S+, pinned [^\s;]+)/,
    },
  },
];

// --- what the headers are made into ---

interface Metadata {
  readonly keyslots: Record<string, { readonly area: { readonly offset: string; readonly size: string } }>;
  readonly tokens: Record<string, object>;
  readonly segments: Readonly<Record<string, { encryption: string }>>;
  readonly digests: Readonly<Record<string, { readonly keyslots: string[] }>>;
}

const edited = (header: Buffer, change: (metadata: Metadata) => void): Buffer =>
  editLuksHeaders(header, (json) => {
    const metadata = JSON.parse(json) as Metadata;
    change(metadata);
    return JSON.stringify(metadata);
  });

const withNullCipher = (header: Buffer): Buffer =>
  edited(header, ({ segments }) => {
    for (const segment of Object.values(segments)) segment.encryption = "cipher_null-ecb";
  });

const withForeignToken = (header: Buffer): Buffer =>
  edited(header, ({ tokens, keyslots }) => {
    tokens[next(tokens)] = { type: "foreign", keyslots: Object.keys(keyslots).slice(-1) };
  });

/** A copy of the recovery key's slot, which opens the volume as that one does. */
function withAnotherSlot(header: Buffer): Buffer {
  let [from, size, to] = [0, 0, 0];
  const changed = edited(header, ({ keyslots, digests }) => {
    const slot = keyslots["0"];
    if (slot === undefined) throw new Error("the header has no key slot 0");
    [from, size] = [Number(slot.area.offset), Number(slot.area.size)];
    to = Math.max(...Object.values(keyslots).map(({ area }) => Number(area.offset) + Number(area.size)));
    const name = next(keyslots);
    keyslots[name] = { ...slot, area: { ...slot.area, offset: String(to) } };
    for (const { keyslots: of } of Object.values(digests)) of.push(name);
  });
  header.copy(changed, to, from, from + size);
  return changed;
}

/** The first number that is not taken. */
const next = (taken: Readonly<Record<string, unknown>>): string =>
  String(Math.max(-1, ...Object.keys(taken).map(Number)) + 1);

// --- where they are ---

/** The device of a volume, as it is pinned; for a shell on the node. */
const deviceOf = (volume: VolumeName): string =>
  `"$(sed -n 's/^device=//p' /etc/edgeseal/volumes/${volume}.pins)"`;

const headerOf = async (context: DemoContext, volume: VolumeName): Promise<Buffer> =>
  Buffer.from(
    await onNode(
      context,
      `dd if=${deviceOf(volume)} bs=1M count=${headerBytes / 1024 / 1024} iflag=direct status=none | base64 -w 0`,
    ),
    "base64",
  );

/** Where a volume begins on the data disk, in bytes. */
async function placeOf(context: DemoContext, volume: VolumeName): Promise<number> {
  const start = await onNode(
    context,
    `cat "/sys/class/block/$(basename "$(readlink -e ${deviceOf(volume)})")/start"`,
  );
  return Number(start) * 512;
}

/** The header of a volume that an attacker made, to be taken for `models`. */
async function forgedHeader(context: DemoContext): Promise<Buffer> {
  const encoded = await onNode(
    context,
    `truncate -s 64M /run/forged && device=${deviceOf("models")} && { ${forgeLuksVolume('"$device"', "/run/forged")}; } >&2 &&
head -c ${headerBytes} /run/forged | base64 -w 0 && rm /run/forged /run/token /run/own`,
  );
  return Buffer.from(encoded, "base64");
}
