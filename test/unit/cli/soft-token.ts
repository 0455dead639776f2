import { execFileSync } from "node:child_process";
import { createPublicKey, type KeyObject } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { onTestFinished, type TestContext } from "vitest";
import { findOnPath } from "../../../tools/doctor/program.ts";

const module = "/usr/lib/softhsm/libsofthsm2.so";

/** An RSA key that a PKCS#11 token made and keeps. */
export interface TokenKey {
  /** The URI that names it. */
  readonly spec: string;
  readonly publicKey: KeyObject;
  readonly pinFile: string;
}

/** A token of SoftHSM's, for this test; without SoftHSM the test is skipped, and says so. */
export function softToken(context: TestContext, scratch: (...parts: readonly string[]) => string): TokenKey {
  if (
    findOnPath("softhsm2-util") === undefined ||
    findOnPath("pkcs11-tool") === undefined ||
    !existsSync(module)
  )
    context.skip("needs softhsm2 and opensc (tools/debian-packages.txt), which are not installed");
  const before = process.env["SOFTHSM2_CONF"];
  onTestFinished(() => {
    if (before === undefined) delete process.env["SOFTHSM2_CONF"];
    else process.env["SOFTHSM2_CONF"] = before;
  });
  process.env["SOFTHSM2_CONF"] = scratch("softhsm2.conf");
  mkdirSync(scratch("tokens"));
  writeFileSync(
    scratch("softhsm2.conf"),
    `directories.tokendir = ${scratch("tokens")}\nobjectstore.backend = file\n`,
  );
  const pinFile = scratch("pin-file");
  writeFileSync(pinFile, "4711\n", { mode: 0o600 });
  const run = (program: string, words: string, ...more: readonly string[]): void =>
    void execFileSync(program, [...words.split(" "), ...more], { stdio: "ignore" });
  run("softhsm2-util", "--init-token --free --label edgeseal --so-pin 12345678 --pin 4711");
  const token = `--module ${module} --token-label edgeseal`;
  run("pkcs11-tool", `${token} --login --pin 4711 --keypairgen --key-type rsa:2048 --label policy --id 01`);
  run("pkcs11-tool", `${token} --read-object --type pubkey --label policy -o`, scratch("public.der"));
  return {
    spec: `pkcs11:token=edgeseal;object=policy?module-path=${module}&pin-source=file:${pinFile}`,
    publicKey: createPublicKey({ key: readFileSync(scratch("public.der")), format: "der", type: "spki" }),
    pinFile,
  };
}
