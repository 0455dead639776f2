import { quote } from "../device/shell-quote.ts";
import type { InferenceContainerInputs } from "./inference-container-inputs.ts";
import { podman, podmanEnvironment, runtimeDirectoryOf, userOf } from "./inference-container-unit.ts";

/** A command of podman's as the service's user, in a unit of its own, with which all that it started ends. */
export function asService(
  inputs: Pick<InferenceContainerInputs, "name" | "storage">,
  purpose: string,
  words: readonly string[],
  scratch?: string,
): string {
  const { name, storage } = inputs;
  const user = userOf(name);
  const runtime = runtimeDirectoryOf(name);
  const environment = { ...podmanEnvironment(name), ...(scratch === undefined ? {} : { TMPDIR: scratch }) };
  const properties = [
    ...[
      `User=${user}`,
      `Group=${user}`,
      "NoNewPrivileges=yes",
      "CapabilityBoundingSet=",
      "PrivateDevices=yes",
    ],
    ...["ProtectSystem=strict", `ReadWritePaths=${storage} ${runtime}`, "ProtectHome=yes", "UMask=0077"],
  ];
  return [
    // Where the service runs, its own folder; podman asks for the same one every time.
    `[ -d ${runtime} ] || install -d -m 0710 -o ${user} -g ${user} ${runtime}`,
    [
      ...["systemd-run", "--quiet", "--wait", "--pipe", "--collect", `--unit=${user}-${purpose}`],
      ...properties.flatMap((each) => ["-p", quote(each)]),
      ...Object.entries(environment).flatMap(([key, value]) => ["-E", quote(`${key}=${value}`)]),
      ...["--", ...podman(inputs), ...words].map(quote),
    ].join(" "),
  ].join("\n");
}
