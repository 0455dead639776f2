// Joins standard input and output to a Unix socket: how tpm2-tools reach a TPM that listens on one (tss2-tcti-cmd).
import { connect } from "node:net";

const socket = connect(process.argv[2] ?? "");
process.stdin.pipe(socket).pipe(process.stdout);
