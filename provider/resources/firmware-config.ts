import { Type, type Static } from "typebox";
import { diffState } from "../diff.ts";
import type { Step } from "../device/step.ts";
import { defineResource, PlanRefused, type InputProblem } from "../resource.ts";
import { trialParameter } from "./firmware-config-command-line.ts";
import {
  firmwareConfigProbe,
  firmwareConfigState,
  type FirmwareConfigState,
} from "./firmware-config-observation.ts";
import { editOf, takeBack, writeEdit } from "./firmware-config-plan.ts";
import { inForce, isAddingUp, longestLine, splitSetting } from "./firmware-config-text.ts";
import {
  dropStaged,
  installTrial,
  keepTrial,
  leaveTrial,
  stageEdit,
  trialName,
  tryStaged,
} from "./firmware-config-trial.ts";
import { mayReboot, rebootInputs, rebootProblems, rebootSteps, tellOfNextBoot } from "./reboot-inputs.ts";

const settings = Type.Array(
  Type.String({
    pattern: '^[A-Za-z][A-Za-z0-9_]*(:[0-9]+)?=[ -"$-~]+$',
    maxLength: longestLine,
    description: "A line `KEY=VALUE`, at most 98 characters: the firmware ignores what is beyond.",
  }),
  {
    default: ["dtparam=spi=on", "dtoverlay=tpm-slb9670"],
    description:
      "Lines that have to be in force in config.txt, e.g. `dtparam=i2c_arm=on`. What is not in force already stands between edgeseal's marks, under `[all]`, at the end of the file. Default: SPI and the TPM (an Infineon SLB 9670 or 9672 on SPI), which everything that edgeseal seals stands on.",
  },
);

const parameter = Type.String({
  pattern: '^([!#-~]|"[ !#-~]*")+$',
  maxLength: 512,
  description: "A parameter such as `quiet` or `lsm=apparmor`; white space only within double quotes.",
});

const commandLine = Type.Object(
  {
    present: Type.Array(parameter, {
      default: ["lsm=landlock,lockdown,yama,integrity,apparmor,bpf", "cgroup_enable=memory"],
      description:
        "Parameters that have to be there. For `lsm`, these modules have to be among it. Default: AppArmor, without which no profile confines anything (Raspberry Pi's kernel starts no security module by itself), and the memory cgroup, without which no memory limit holds (Raspberry Pi's device tree turns it off).",
    }),
    absent: Type.Array(parameter, {
      default: [],
      description:
        "Parameters that must not be there: `KEY` with whatever value, or `KEY=VALUE`. Default: none.",
    }),
  },
  { default: {}, additionalProperties: false, description: "The kernel's command line (cmdline.txt)." },
);

const inputs = Type.Object({
  settings,
  commandLine,
  tryboot: Type.Enum(["auto", "always", "never"], {
    type: "string",
    default: "auto",
    description:
      "Whether a change is first booted once by way of tryboot.txt, and comes to the boot partition only when the node answers: `auto`: where the firmware says that it can. `always`: also where it doesn't say. `never`: the files are changed, and a copy of the former ones stays on the boot partition. The trial is a reboot that edgeseal makes: with `reboot: never`, and outside of a window, the change waits for one that may. Default `auto`.",
  }),
  ...rebootInputs,
});

type Inputs = Static<typeof inputs>;

/**
 * config.txt and cmdline.txt of a Raspberry Pi as far as they are declared; everything else in them stays byte for byte.
 *
 * @param now The clock that reboot windows are judged by.
 */
export function firmwareConfigAt(now: () => Date) {
  const desired = (wanted: Inputs): Partial<FirmwareConfigState> => {
    const parameters = {
      ...Object.fromEntries(wanted.commandLine.present.map((each) => [each, "present"])),
      ...Object.fromEntries(wanted.commandLine.absent.map((each) => [each, "absent"])),
    };
    return {
      settings: Object.fromEntries(wanted.settings.map((each) => [each, inForce])),
      staleSettings: [],
      commandLine: parameters,
      ...(wanted.tryboot === "never" ? { staged: "" } : {}),
      ...(mayReboot(wanted, now())
        ? { pendingReboot: false, bootedCommandLine: parameters, ...effects(wanted) }
        : {}),
    };
  };
  return defineResource({
    token: "edgeseal:boot:FirmwareConfig",
    description:
      "config.txt and cmdline.txt of a Raspberry Pi: settings and kernel parameters that have to be in force, with everything else kept as it is. What is on the disk takes effect with the next boot; the state tells both apart.",
    inputs,
    state: firmwareConfigState,
    check: (given) => [...problemsOf(given), ...rebootProblems(given)],
    // The questions need no inputs, so every first read of a node asks them; reading the answers does.
    observe: (...[given]: [Partial<Inputs>?]) => firmwareConfigProbe({ ...nothingDeclared, ...given }),
    desired,
    plan: (wanted, observed) => {
      if (observed.outcome === "absent") {
        throw new PlanRefused(
          "the node has no /boot/firmware/config.txt",
          "this is no Raspberry Pi with its usual system; take the resource out, or mount the boot partition",
        );
      }
      const { state } = observed;
      const differences = diffState(desired(wanted), state);
      if (differences.length === 0) return [];
      const edit = editOf(wanted, state);
      const edits = edit.changesConfig || edit.changesCommandLine;
      const name = trialName(edit, state);
      const isStaged = state.staged === name;
      if (state.trial !== "" && state.trial === state.staged && (isStaged || state.stagedPhase === "kept"))
        return keepTrial(state);
      if (state.trialEnds) return [leaveOrWait(edits, state)];
      if (edits && isTried(wanted, state)) {
        // Its trial is over: that is told once, and what may be left of it goes.
        if (isStaged && state.stagedPhase !== "staged") return keepTrial(state);
        return [
          ...installTrial(),
          ...(isStaged ? [] : stageEdit(edit, state)),
          ...(mayReboot(wanted, now()) ? tryStaged(name, state, wanted, now()) : []),
        ];
      }
      const isWaiting = state.staged !== "";
      const steps = [
        ...(isWaiting ? dropStaged() : []),
        ...writeEdit(edit, state),
        ...(edits && !mayReboot(wanted, now()) ? [tellOfNextBoot()] : []),
        ...(edits || (state.pendingReboot && !isWaiting)
          ? rebootSteps(wanted, "reboot, so that config.txt and cmdline.txt take effect", now())
          : []),
      ];
      if (steps.length === 0) throw whyNot(differences, state);
      return steps;
    },
    revert: (wanted, observed) =>
      observed.outcome === "absent"
        ? []
        : [...(observed.state.staged === "" ? [] : dropStaged()), ...takeBack(wanted, observed.state)],
  });
}

export const firmwareConfig = firmwareConfigAt(() => new Date());

const nothingDeclared = { settings: [], commandLine: { present: [], absent: [] } };

/** Whether edits of this node are booted on trial first: where the firmware can. Nothing is written in place before, whoever reboots the node: nobody knows yet whether it comes up with it. */
function isTried({ tryboot }: Inputs, state: FirmwareConfigState): boolean {
  if (tryboot === "never" || state.tryboot === "taken") return false;
  return tryboot === "always" || state.tryboot === "supported";
}

/** In a boot on trial whose edit is in place, or is another one than what is declared now. */
function leaveOrWait(edits: boolean, { staged }: FirmwareConfigState): Step {
  if (staged === "" && !edits) return leaveTrial();
  throw new PlanRefused(
    "this boot is the trial of another edit, and nothing can be told of the next one in it",
    "it ends by itself, 5 minutes after it began: run the operation again then",
  );
}

/** What has to be seen in the running system when it is declared. */
function effects({ settings, commandLine }: Inputs): Partial<FirmwareConfigState> {
  const { present } = commandLine;
  const lsm = present.find((each) => each.startsWith("lsm="))?.slice("lsm=".length);
  return {
    ...(settings.some((each) => each.startsWith("dtoverlay=tpm-")) ? { tpm: "2.0" as const } : {}),
    ...(lsm?.split(",").includes("apparmor") === true ? { appArmor: "enabled" as const } : {}),
    ...(present.includes("cgroup_enable=memory") ? { memoryCgroup: "enabled" as const } : {}),
  };
}

/** Nothing on the disk is to be mended, and no boot would change it. */
function whyNot(differences: ReturnType<typeof diffState>, { tpm }: FirmwareConfigState): PlanRefused {
  const list = differences.map(
    ({ path, observed, desired }) =>
      `${path} is ${JSON.stringify(observed)} and has to be ${JSON.stringify(desired)}`,
  );
  const hint =
    tpm === "2.0"
      ? "the files are as declared and this boot was made of them: see the kernel's log (dmesg) for why it did not take effect"
      : "the files are as declared: see that a TPM 2.0 is plugged in and is of the kind that the overlay names (dmesg | grep -i tpm); if config.txt was edited by hand in this boot, reboot";
  return new PlanRefused(`it does not take effect: ${list.join("; ")}`, hint);
}

/** Settings that name the file of the command line, or are none of a file. */
const reserved: Readonly<Record<string, string>> = {
  cmdline: "it would name another file than the one that edgeseal edits: declare parameters in `commandLine`",
  os_prefix: "it would name another folder than the one that edgeseal edits",
};

function problemsOf({ settings, commandLine }: Inputs): readonly InputProblem[] {
  const problems: InputProblem[] = [];
  const seen = new Map<string, number>();
  for (const [index, setting] of settings.entries()) {
    const path = `settings[${index}]`;
    const [key, value] = splitSetting(setting);
    const why = reserved[key];
    if (why !== undefined) problems.push({ path, message: `'${setting}' is not possible: ${why}` });
    if (key === "dtparam" && value.includes(",")) {
      problems.push({ path, message: `'${setting}' has several parameters: write one in each line` });
    }
    const subject = isAddingUp(key)
      ? setting
      : key === "dtparam"
        ? `${key}=${value.split("=")[0] ?? ""}`
        : key;
    const first = seen.get(subject);
    if (first !== undefined) {
      problems.push({
        path,
        message: `'${setting}' says something of what settings[${first}] decides already`,
      });
    } else seen.set(subject, index);
  }
  const nameOf = (each: string): string => (each.split("=")[0] ?? "").replaceAll("-", "_");
  for (const list of ["present", "absent"] as const) {
    for (const [index, each] of commandLine[list].entries()) {
      const path = `commandLine.${list}[${index}]`;
      if (each === "--") problems.push({ path, message: "'--' is no parameter: it ends them" });
      if (nameOf(each) === trialParameter.replaceAll("-", "_")) {
        problems.push({ path, message: `${trialParameter} is edgeseal's own` });
      }
      if (commandLine[list].indexOf(each) !== index) {
        problems.push({ path, message: `'${each}' is there twice` });
      }
    }
  }
  for (const [index, each] of commandLine.absent.entries()) {
    const clash = commandLine.present.find(
      (other) => other === each || (!each.includes("=") && nameOf(other) === nameOf(each)),
    );
    if (clash !== undefined) {
      problems.push({
        path: `commandLine.absent[${index}]`,
        message: `'${each}' must be absent, and commandLine.present has '${clash}'`,
      });
    }
  }
  return problems;
}
