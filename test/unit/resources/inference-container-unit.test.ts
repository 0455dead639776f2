import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { serviceUnit, unitFiles } from "../../../provider/resources/inference-container-unit.ts";
import type { InferenceContainerInputs } from "../../../provider/resources/inference-container-inputs.ts";
import { example, loosened } from "./inference-container-example.ts";

const hailo: InferenceContainerInputs = { ...loosened({ devices: ["/dev/hailo0"] }), variant: "hailo" };
const variants = { "llama-server": example, ollama: { ...example, variant: "ollama" }, hailo } as const;

/** The words of podman's command. */
const command = (inputs: InferenceContainerInputs): readonly string[] =>
  (/^ExecStart=(.*)$/m.exec(serviceUnit(inputs))?.[1] ?? "").split(" ");
const lines = (text: string): readonly string[] => text.split("\n");
/** What follows an option, each time. */
const valuesOf = (option: string, words: readonly string[]): readonly string[] =>
  words.flatMap((word, index) => (word === option ? [words[index + 1] ?? ""] : []));

/** What every variant is confined by, whatever else differs. */
const hardening = [
  "User=edgeseal-inference",
  "AppArmorProfile=edgeseal-inference-podman",
  "NoNewPrivileges=yes",
  "CapabilityBoundingSet=",
  "PrivateTmp=yes",
  "PrivateNetwork=yes",
  "IPAddressDeny=any",
  "ProtectSystem=strict",
  "ReadWritePaths=-/srv/models/containers/inference",
  "ProtectHome=yes",
  "ProtectClock=yes",
  "ProtectKernelModules=yes",
  "LockPersonality=yes",
  "MemoryDenyWriteExecute=yes",
  "RestrictRealtime=yes",
  "RestrictSUIDSGID=yes",
  "SystemCallArchitectures=native",
  "KeyringMode=private",
  "RemoveIPC=yes",
  "UMask=0077",
  "MemoryMax=1024M",
  "MemorySwapMax=0",
  "TasksMax=64",
  "CPUQuota=350%",
  "OOMScoreAdjust=500",
  "LimitCORE=0",
  "Delegate=yes",
  "After=edgeseal-volumes.service apparmor.service",
  "AssertSecurity=apparmor",
] as const;

describe.each(Object.entries(variants))("the unit of %s", (variant, inputs) => {
  test("is confined, limited, and starts nothing that was not checked", () => {
    const unit = lines(serviceUnit(inputs));
    expect(unit).toEqual(expect.arrayContaining([...hardening]));
    expect(unit).toContain(
      `ExecCondition=+/usr/lib/edgeseal/check-inference inference /srv/models/models ${"b".repeat(64)} /srv/models/containers/inference`,
    );
    // The check is the one command outside the confinement.
    expect(unit.filter((line) => /^Exec\w+=[^/]/.test(line))).toHaveLength(1);
  });

  test("runs the image by its digest, and what its container may do is next to nothing", () => {
    const words = command(inputs);
    expect(words).toContain(`registry.example/edge/llama@sha256:${"a".repeat(64)}`);
    for (const word of ["--pull=never", "--read-only", "--read-only-tmpfs=false", "--cgroups=split"])
      expect(words, word).toContain(word);
    expect(valuesOf("--cap-drop", words)).toEqual(["all"]);
    expect(valuesOf("--cap-add", words)).toEqual([]);
    expect(valuesOf("--security-opt", words)).toEqual([
      "no-new-privileges",
      "seccomp=/etc/edgeseal/seccomp/inference.json",
    ]);
    expect(valuesOf("--ipc", words)).toEqual(["none"]);
    expect(valuesOf("--tmpfs", words)).toEqual(["/tmp:rw,size=16m,mode=1777,noexec,nosuid,nodev"]);
    expect(valuesOf("--volume", words)).toEqual([
      `/srv/models/models/${"b".repeat(64)}:/models:ro`,
      "/run/edgeseal-inference/http:/run/inference",
    ]);
    expect(valuesOf("--device", words)).toEqual(inputs.confinement.devices);
    expect(words.some((word) => /privileged|--publish|^-p$|--pid=/.test(word))).toBe(false);
    // Its network is the unit's, which has none; only a server that knows no UNIX socket shares the unit's loopback.
    expect(valuesOf("--network", words)).toEqual([variant === "llama-server" ? "none" : "host"]);
  });

  test("is one that systemd reads without a remark", () => {
    const folder = mkdtempSync(join(tmpdir(), "edgeseal-units-"));
    try {
      const units = unitFiles({ ...inputs, port: 8080 });
      for (const [name, text] of Object.entries(units)) writeFileSync(join(folder, name), text);
      const { stderr } = spawnSync(
        "systemd-analyze",
        ["verify", "--man=no", ...Object.keys(units).map((name) => join(folder, name))],
        {
          encoding: "utf8",
          env: { ...process.env, SYSTEMD_UNIT_PATH: `${folder}:` },
        },
      );
      // Programs that are not here; keys that are newer than the systemd here.
      const remarks = stderr
        .split("\n")
        .filter((line) => /edgeseal-inference/.test(line))
        .filter(
          (line) =>
            !/is not executable|RestartSteps|RestartMaxDelaySec|references a missing|not found/.test(line),
        );
      expect(remarks).toEqual([]);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });
});

test("llama-server: the model locked, nothing of a prompt kept or shown, a socket and no port", () => {
  const words = command(example).join(" ");
  expect(words).toMatch(
    /--model \/models\/model\.gguf --host \/run\/inference\/http\.sock --ctx-size 4096 --threads 3 --parallel 1 --threads-http 25 -lm mmap\+mlock --no-webui --no-slots --cache-ram 0 --offline --no-warmup$/,
  );
});

test("a server that makes a thread for each connection gets no more of these than it may make threads", () => {
  for (const inputs of [example, { ...example, parallel: 4, tasksMax: 4096 }, { ...example, tasksMax: 48 }]) {
    const words = command(inputs);
    const threads = Number(words[words.indexOf("--threads-http") + 1]);
    const files = Number(/^nofile=(\d+):\1$/.exec(valuesOf("--ulimit", words)[2] ?? "")?.[1]);
    const tasks = Number(valuesOf("--pids-limit", words)[0]);
    const port = unitFiles({ ...inputs, port: 8080 })["edgeseal-inference-port.service"];
    const proxied = Number(/--connections-max=(\d+) /.exec(port ?? "")?.[1]);
    expect(threads).toBeGreaterThanOrEqual(inputs.parallel + 8);
    // 5 files and 5 tasks are llama-server's own.
    expect(files - 5).toBeGreaterThanOrEqual(threads);
    expect(files - 5 + inputs.threads + 5).toBeLessThanOrEqual(tasks);
    // It takes one more than it is told.
    expect(proxied + 1).toBe(threads - 4);
  }
  expect(command({ ...example, parallel: 4, tasksMax: 4096 })).toEqual(
    expect.arrayContaining(["--threads-http", "64"]),
  );
  for (const variant of [variants.ollama, hailo])
    expect(valuesOf("--ulimit", command(variant))).toHaveLength(2);
});

test("ollama: by its environment, on a loopback of its own", () => {
  const words = command(variants.ollama);
  expect(words.at(-1)).toBe("serve");
  expect(valuesOf("--env", words)).toEqual(
    expect.arrayContaining(["OLLAMA_HOST=127.0.0.1:11434", "OLLAMA_MODELS=/models", "OLLAMA_NOHISTORY=1"]),
  );
  expect(lines(serviceUnit(variants.ollama))).toContain("IPAddressAllow=localhost");
});

test("hailo: the accelerator and no other device", () => {
  const unit = lines(serviceUnit(hailo));
  expect(unit).toEqual(expect.arrayContaining(["DevicePolicy=closed", "DeviceAllow=/dev/hailo0 rw"]));
  expect(unit).not.toContain("PrivateDevices=yes");
  expect(valuesOf("--group-add", command(hailo))).toEqual(["keep-groups"]);
  expect(lines(serviceUnit(example))).toContain("PrivateDevices=yes");
});

describe("the units beside it", () => {
  const units = unitFiles({ ...example, port: 8080 });

  test("a port only where one is asked for, on the loopback", () => {
    expect(Object.keys(unitFiles(example)).filter((name) => name.includes("port"))).toEqual([]);
    expect(lines(units["edgeseal-inference-port.socket"] ?? "")).toContain("ListenStream=127.0.0.1:8080");
    expect(units["edgeseal-inference-port.service"]).toMatch(
      /^ExecStart=\/usr\/lib\/systemd\/systemd-socket-proxyd .* \/run\/edgeseal-inference\/http\/http\.sock$/m,
    );
  });

  test("they run as nobody in particular, in the group that the socket is open for, without a network", () => {
    for (const name of ["edgeseal-inference-port.service", "edgeseal-inference-health.service"])
      expect(lines(units[name] ?? "")).toEqual(
        expect.arrayContaining([
          "DynamicUser=yes",
          "SupplementaryGroups=edgeseal-inference",
          "PrivateNetwork=yes",
          "RestrictAddressFamilies=AF_UNIX",
        ]),
      );
  });

  test("a server that knows no socket is reached in its own network", () => {
    const ofOllama = unitFiles({ ...variants.ollama, port: 8080 });
    for (const name of ["edgeseal-inference-port.service", "edgeseal-inference-health.service"]) {
      expect(lines(ofOllama[name] ?? "")).toEqual(
        expect.arrayContaining(["JoinsNamespaceOf=edgeseal-inference.service", "PrivateNetwork=yes"]),
      );
      expect(ofOllama[name]).toContain("127.0.0.1:11434");
    }
  });

  test("one that hangs is started anew, one that loads is not", () => {
    const health = units["edgeseal-inference-health.service"] ?? "";
    expect(health).toContain(
      "ExecStart=/usr/lib/edgeseal/ask-inference --alive /run/edgeseal-inference/http/http.sock /health 60",
    );
    expect(health).toContain("systemctl --no-block try-restart edgeseal-inference.service");
    expect(lines(units["edgeseal-inference-health.timer"] ?? "")).toContain(
      "PartOf=edgeseal-inference.service",
    );
  });
});

describe("what is loosened, and that alone", () => {
  const strict = lines(serviceUnit(example));
  const changed = (inputs: InferenceContainerInputs): readonly string[] => {
    const other = lines(serviceUnit(inputs));
    return [
      ...strict.filter((line) => !other.includes(line)),
      ...other.filter((line) => !strict.includes(line)),
    ].map((line) => line.replace(/^ExecStart=.*/, "ExecStart"));
  };
  test.each<[Parameters<typeof loosened>[0], readonly string[], RegExp | undefined]>([
    [{ seccomp: "unconfined" }, ["ExecStart", "ExecStart"], /seccomp=unconfined/],
    [
      { appArmor: "unconfined" },
      [
        "# systemd passes over AppArmorProfile= where the kernel has no AppArmor.",
        "AssertSecurity=apparmor",
        "AppArmorProfile=edgeseal-inference-podman",
      ],
      undefined,
    ],
    [{ readOnlyRoot: false }, ["ExecStart", "ExecStart"], undefined],
    [
      { noNewPrivileges: false },
      ["ExecStart", "NoNewPrivileges=yes", "ExecStart", "NoNewPrivileges=no"],
      undefined,
    ],
    [
      { memoryLock: false },
      ["ExecStart", "LimitMEMLOCK=infinity", "ExecStart", "LimitMEMLOCK=0"],
      /-lm mmap --/,
    ],
    [{ capabilities: ["CAP_NET_RAW"] }, ["ExecStart", "ExecStart"], /--cap-add CAP_NET_RAW/],
  ])("%j", (confinement, expected, words) => {
    const inputs = loosened(confinement);
    expect(changed(inputs)).toEqual(expected);
    if (words !== undefined) expect(command(inputs).join(" ")).toMatch(words);
  });

  test("the node's network", () => {
    const unit = lines(serviceUnit(loosened({ network: "host" })));
    expect(unit.some((line) => /^(PrivateNetwork|IPAddressDeny)/.test(line))).toBe(false);
    expect(valuesOf("--network", command(loosened({ network: "host" })))).toEqual(["host"]);
  });
});
