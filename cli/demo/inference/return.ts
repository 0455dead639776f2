import { randomBytes } from "node:crypto";
import { askProgram } from "../../../provider/resources/inference-container-unit.ts";
import { pulumiUp } from "../operator.ts";
import { noDrift, nothingToDo, refresh } from "../refresh.ts";
import { holds, onNode, type DemoContext, type DemoStep } from "../step.ts";
import { answers, ask, confinedInEffect } from "./service.ts";

export const comesBack: DemoStep = {
  title: "It comes back by itself, only with the signed model, and no prompt is on a disk",
  proves:
    "killed, the server is started again; with the node off, nothing of a prompt is found on its disks; after a boot the volume opens and the model is served without a person; a model that was changed on the disk is not served, and the reason is said",
  async run(context) {
    await onNode(context, "pkill -KILL -u edgeseal-inference llama-server");
    await servesAgain(context, "after the server was killed");
    await promptOnNoDisk(context);
    await context.pi.boot();
    await servesAgain(context, "after a boot");
    await answers(context);
    await confinedInEffect(context);
    await noDrift(context);
    await changedModel(context);
  },
};

/**
 * A marker is sent as a prompt, the node shut down in good order, which is when journals and histories are written, and its disks are searched. Another marker, written to a file of
 * the node, shows that what is there is found. Leaves the node off.
 */
async function promptOnNoDisk(context: DemoContext): Promise<void> {
  const [asked, written] = [randomBytes(6).toString("hex"), randomBytes(6).toString("hex")];
  await ask(context, `My password is ${asked}`, 2);
  await onNode(context, `echo ${written} >/root/written && sync`);
  await context.pi.powerOff();
  const [askedIsThere, writtenIsThere] = await context.pi.foundOnDisks(
    [asked, written].map((each) => Buffer.from(each)),
  );
  holds(
    context,
    writtenIsThere === true,
    "what was written to a file is found on the node's disks",
    "it is not",
  );
  holds(context, askedIsThere === false, "what was in a prompt is not", `"${asked}" is on a disk`);
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
