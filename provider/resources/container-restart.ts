import { run, type RunStep } from "../device/step.ts";
import { inferenceUnit } from "./container-process.ts";

/*
 * A filter is loaded when a process starts, and stays; so is what AppArmor makes of one under two profiles. Who changes a profile has the container that runs started anew. Should that be cut off, the
 * container's own resource tells it, by what its start left (`startedFrom`), and starts it.
 */

/**
 * Starts the service of a name anew where it runs, or is being started: it may have read the profile already.
 * @param under e.g. `under that profile`
 */
export function restartWhereItRuns(name: string, under: string): RunStep {
  const unit = inferenceUnit(name);
  return run({
    title: `start ${unit} anew, where it runs, ${under}`,
    // Not try-restart: to systemd one that is being started does not run. One that waits for its next start (auto-restart) has it before it.
    script: `case $(systemctl show -P SubState -- ${unit}) in
condition | start* | running | reload*) systemctl restart -- ${unit} ;;
esac`,
    timeoutSeconds: 600,
  });
}
