import { run, type RunStep } from "../device/step.ts";
import { inferenceUnit } from "./container-process.ts";
import { serviceFiles } from "./model-files.ts";

/*
 * A filter is loaded when a process starts, and stays; so is what AppArmor makes of one under two profiles, and a model's file that is mapped. Who changes one of them has the container that runs started
 * anew. Should that be cut off, the container's own resource tells it, by what its start left (`startedFrom`) or by the file that is mounted, and starts it.
 */

// Not try-restart: to systemd one that is being started does not run. One that waits for its next start (auto-restart) has it before it.
const restart = (unit: string): string => `case $(systemctl show -P SubState -- ${unit}) in
condition | start* | running | reload*) systemctl restart -- ${unit} ;;
esac`;

/**
 * Starts the service of a name anew where it runs, or is being started: it may have read the profile already.
 * @param under e.g. `under that profile`
 */
export function restartWhereItRuns(name: string, under: string): RunStep {
  const unit = inferenceUnit(name);
  return run({
    title: `start ${unit} anew, where it runs, ${under}`,
    script: restart(unit),
    timeoutSeconds: 600,
  });
}

/** The same for every service whose unit names a model. */
export function restartWhatServes(name: string, hex: string): RunStep {
  return run({
    title: `start what serves the model ${name} anew, where it runs`,
    script: `set -eu
for file in $(grep -ls ${hex} ${serviceFiles}); do
unit=\${file##*/}
${restart('"$unit"')}
done`,
    timeoutSeconds: 600,
  });
}
