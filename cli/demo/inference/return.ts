import { randomBytes } from "node:crypto";
import { askProgram } from "../../../provider/resources/inference-container-unit.ts";
import { pulumiUp } from "../operator.ts";
import { noDrift, nothingToDo, refresh } from "../refresh.ts";
import { holds, onNode, type DemoContext, type DemoStep } from "../step.ts";
import { whileOff } from "../while-off.ts";
import { answers, ask, confinedInEffect } from "./service.ts";

export const comesBack: DemoStep = {
  title: "It comes back by itself, only with the signed model, and no prompt is on a disk",
  proves:
    "killed, the server is started again; with the node off, nothing of a prompt is found on its disks; where the volume stays locked, the container does not start, and says why; after a boot the volume opens and the model is served without a person; a model that was changed on the disk is not served, and the reason is said",
  async run(context) {
    await onNode(context, "pkill -KILL -u edgeseal-inference llama-server");
    await servesAgain(context, "after the server was killed");
    const markers = await promptOnNoDisk(context);
    await onLockedVolume(context);
    await servesAgain(context, "after a boot");
    await promptOnNoVolume(context, markers);
    await answers(context);
    await confinedInEffect(context);
    await noDrift(context);
    await changedModel(context);
  },
};

/** What is searched for: sent as a prompt, and written to a file of the volume. */
interface Markers {
  readonly asked: string;
  readonly onVolume: string;
}

const marker = (): string => randomBytes(6).toString("hex");

/**
 * A marker is sent as a prompt, the node shut down in good order, which is when journals and histories are written, and its disks are searched. Other markers, written to files of the
 * node, show that what is there is found, and that what is on the volume is not. Leaves the node off.
 */
async function promptOnNoDisk(context: DemoContext): Promise<Markers> {
  const [asked, written, onVolume] = [marker(), marker(), marker()];
  await ask(context, `My password is ${asked}`, 2);
  await onNode(context, `echo ${written} >/root/written && echo ${onVolume} >/srv/models/written && sync`);
  await context.pi.powerOff();
  const [askedIsThere, writtenIsThere, onVolumeIsThere] = await context.pi.foundOnDisks(
    [asked, written, onVolume].map((each) => Buffer.from(each)),
  );
  holds(
    context,
    writtenIsThere === true,
    "what was written to a file is found on the node's disks",
    "it is not",
  );
  holds(context, askedIsThere === false, "what was in a prompt is not", `"${asked}" is on a disk`);
  holds(
    context,
    onVolumeIsThere === false,
    "nor what was written to the sealed volume",
    `"${onVolume}" is on a disk`,
  );
  return { asked, onVolume };
}

/** The same inside of the volume, which is open. */
async function promptOnNoVolume(context: DemoContext, { asked, onVolume }: Markers): Promise<void> {
  const found = await onNode(
    context,
    `for each in ${asked} ${onVolume}; do if grep -qaF "$each" /dev/mapper/edgeseal-models; then echo "$each"; fi; done; rm /srv/models/written`,
  );
  holds(
    context,
    found === `${onVolume}\n`,
    "on the open volume's block device what was written is found, and what was in the prompt is not",
    found,
  );
}

/** The node, which is off, boots another state than the approved one, which leaves the volume locked; and then the approved one. */
async function onLockedVolume(context: DemoContext): Promise<void> {
  let original: Buffer = Buffer.alloc(0);
  await context.pi.tamper(async ({ boot }) => {
    original = await boot.read("cmdline.txt");
    await boot.write("cmdline.txt", `${original.toString().trim()} systemd.debug_shell=1\n`);
  });
  context.say("      the kernel's command line is changed while the node is off");
  await context.pi.boot();
  const { drifted, text } = await refresh(context);
  const [, reason] =
    /"(volume-not-mounted: .*the sealed volume models is to be mounted at .* and is not: pcr11-not-approved[^"]*)"/.exec(
      text,
    ) ?? [];
  holds(
    context,
    drifted.some((each) => each.startsWith("InferenceContainer.health")) && reason !== undefined,
    `the volume stays locked, the container does not start, and refresh says why: ${reason ?? ""}`,
    text,
  );
  const processes = await onNode(context, "ps -U edgeseal-inference -o pid=,comm= || :");
  holds(context, processes.trim() === "", "nothing runs as the service's user", processes);
  await whileOff(context, "the original command line was put back", ({ boot }) =>
    boot.write("cmdline.txt", original),
  );
}

/** One byte of the model is changed on the disk. */
async function changedModel(context: DemoContext): Promise<void> {
  await onNode(
    context,
    `set -e
# Not by the link that says which one is served.
file=$(find /srv/models/models -type f -name model.gguf)
chmod u+w "$file" && printf X | dd of="$file" bs=1 seek=100000000 conv=notrunc status=none && chmod u-w "$file"
systemctl restart edgeseal-inference.service || :`,
  );
  context.say("      one byte of the model is changed on the disk, and the service started anew");
  const { drifted, text } = await refresh(context);
  holds(
    context,
    drifted.some((each) => each.startsWith("Model.model")) && /corrupted/.test(text),
    "refresh names it: the model is corrupted",
    text,
  );
  holds(
    context,
    drifted.some((each) => each.startsWith("InferenceContainer.health")) && /not running/.test(text),
    "what was changed is not served",
    text,
  );
  await pulumiUp(context, "ships the signed model again");
  await nothingToDo(context);
  await answers(context);
}

/** How long a server may take to serve again, in seconds: emulated, the model is read, checked and loaded in some 60. */
const longest = 600;

async function servesAgain(context: DemoContext, when: string): Promise<void> {
  const started = performance.now();
  const said = await onNode(
    context,
    `end=$(($(cut -d. -f1 /proc/uptime) + ${longest}))
until ${askProgram} /run/edgeseal-inference/http/http.sock /health 10 | grep -x healthy; do
  [ "$(cut -d. -f1 /proc/uptime)" -lt $end ] || { systemctl status --no-pager edgeseal-inference; exit 0; }
  sleep 1
done
cut -d. -f1 /proc/uptime`,
  );
  const seconds = ((performance.now() - started) / 1000).toFixed(0);
  const [answer, uptime = "?"] = said.split("\n");
  holds(
    context,
    answer === "healthy",
    `${when} it serves again by itself, after ${seconds} s (${uptime.trim()} s after boot)`,
    said,
  );
}
