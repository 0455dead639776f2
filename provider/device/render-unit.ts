import { failFunction } from "./render-paths.ts";
import { quote } from "./shell-quote.ts";
import type { UnitStep } from "./step.ts";

/*
 * systemctl's exit status is not the state: `enable` succeeds on a unit without [Install], `mask` can be undone by a file in /etc, a started service can
 * be gone a moment later. So each step ends with what `is-enabled` and ActiveState say.
 *
 * The order matters: unmask before enable and start; disable before mask (a masked unit can't be disabled); mask before stop, so that nothing pulls the
 * unit up again in between.
 */

const functions = `${failFunction}
enablement() { systemctl is-enabled -- "$unit" 2>/dev/null || :; }
is_enabled() { case $(enablement) in enabled) return 0 ;; *) return 1 ;; esac; }
is_disabled() { case $(enablement) in enabled | enabled-runtime) return 1 ;; *) return 0 ;; esac; }
is_masked() { [ "$(enablement)" = masked ]; }
is_unmasked() { case $(enablement) in masked | masked-runtime) return 1 ;; *) return 0 ;; esac; }
activity() { systemctl show -P ActiveState -- "$unit"; }
is_active() { case $(activity) in active | reloading | refreshing) return 0 ;; *) return 1 ;; esac; }
is_inactive() { case $(activity) in inactive | failed) return 0 ;; *) return 1 ;; esac; }
why() { systemctl show -p LoadState -p ActiveState -p SubState -p Result -p ExecMainStatus -- "$unit" | tr '\\n' ' '; }`;

/** `until CONDITION COMMAND`: nothing is done to a unit that is as it should be. */
function reach(condition: string, command: string, failure: string): string {
  return `if ! ${condition}; then ${command} || :; ${condition} || fail ${failure}; fi`;
}

export function renderUnit(step: UnitStep): string {
  if (!/^[A-Za-z0-9:_.@\\-]+\.[a-z]+$/.test(step.unit) || step.unit.startsWith("-")) {
    throw new TypeError(`'${step.unit}' is not a unit name with its type, such as ssh.service`);
  }
  const call = (verb: string): string => `systemctl ${verb} -- "$unit"`;
  const lines = ["set -eu", `unit=${quote(step.unit)}`, functions];
  if (step.daemonReload === true) lines.push("systemctl daemon-reload");
  if (step.masked === false) {
    lines.push(
      reach(
        "is_unmasked",
        `{ ${call("unmask")} && ${call("unmask --runtime")}; }`,
        `"$unit is still $(enablement)"`,
      ),
    );
  }
  if (step.enabled === true) {
    lines.push(reach("is_enabled", call("enable"), `"$unit is not enabled but '$(enablement)'"`));
  }
  if (step.enabled === false) {
    // Masked counts as disabled, but what is enabled and masked comes back enabled with the unmask.
    lines.push(reach("is_disabled", call("disable"), `"$unit is still $(enablement)"`));
  }
  if (step.masked === true) {
    lines.push(reach("is_masked", call("mask"), `"$unit is not masked but '$(enablement)'"`));
  }
  if (step.active === true) {
    lines.push(
      reach(
        "is_active",
        call("start"),
        `"$unit did not become active: $(why)(journalctl -u $unit tells more)"`,
      ),
    );
  }
  if (step.active === false) {
    lines.push(reach("is_inactive", call("stop"), `"$unit did not stop: $(why)"`));
  }
  return `${lines.join("\n")}\n`;
}
