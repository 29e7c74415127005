"""Read a .pth without running it."""

import sys
import zipfile

TYPES = {"HalfStorage": ("float16", 2), "FloatStorage": ("float32", 4), "IntStorage": ("int32", 4)}
archive = zipfile.ZipFile(sys.argv[1])
member = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
folder = member[: -len("data.pkl")]
data = archive.read(member)


class Global(str):
    pass


MARK = object()
stack, memo, at = [], {}, 0


def number(size, signed=False):
    global at
    at += size
    return int.from_bytes(data[at - size : at], "little", signed=signed)


def line():
    global at
    end = data.index(b"\n", at)
    text = data[at:end].decode()
    at = end + 1
    return text


def down_to_mark():
    values = []
    while stack[-1] is not MARK:
        values.insert(0, stack.pop())
    stack.pop()
    return values


def called(function, arguments):
    if function == "collections.OrderedDict" and arguments == ():
        return {}
    if function == "torch._utils._rebuild_tensor_v2":
        (kind, key), offset, shape, strides = arguments[:4]
        return kind, key, offset, shape, strides
    sys.exit(f"refused: the file calls {function}")


def run():
    global at
    while True:
        opcode = data[at]
        at += 1
        if opcode == 0x80:
            at += 1
        elif opcode == 0x7D:
            stack.append({})
        elif opcode == 0x29:
            stack.append(())
        elif opcode == 0x28:
            stack.append(MARK)
        elif opcode == 0x58:
            size = number(4)
            stack.append(data[at : at + size].decode())
            at += size
        elif opcode in (0x4B, 0x4D):
            stack.append(number(1 if opcode == 0x4B else 2))
        elif opcode == 0x4A:
            stack.append(number(4, True))
        elif opcode == 0x8A:
            stack.append(number(number(1), True))
        elif opcode in (0x88, 0x89):
            stack.append(opcode == 0x88)
        elif opcode == 0x63:
            stack.append(Global(f"{line()}.{line()}"))
        elif opcode in (0x71, 0x72):
            memo[number(1 if opcode == 0x71 else 4)] = stack[-1]
        elif opcode in (0x68, 0x6A):
            stack.append(memo[number(1 if opcode == 0x68 else 4)])
        elif opcode == 0x74:
            stack.append(tuple(down_to_mark()))
        elif opcode in (0x85, 0x86, 0x87):
            count = opcode - 0x84
            values = tuple(stack[-count:])
            del stack[-count:]
            stack.append(values)
        elif opcode == 0x51:
            _, kind, key, _, _ = stack.pop()
            stack.append((TYPES[kind.removeprefix("torch.")], key))
        elif opcode == 0x52:
            arguments = stack.pop()
            stack.append(called(stack.pop(), arguments))
        elif opcode == 0x73:
            value, key = stack.pop(), stack.pop()
            stack[-1][key] = value
        elif opcode == 0x75:
            values = down_to_mark()
            stack[-1].update(zip(values[::2], values[1::2]))
        elif opcode == 0x2E:
            return stack.pop()
        else:
            sys.exit(f"refused: opcode {opcode:#x}")


def places(shape, strides, offset):
    if not shape:
        return [offset]
    return [p for i in range(shape[0]) for p in places(shape[1:], strides[1:], offset + i * strides[0])]


lines = []
for name, ((dtype, size), key, offset, shape, strides) in run().items():
    content = archive.read(f"{folder}data/{key}")
    found = b"".join(content[p * size : p * size + size] for p in places(shape, strides, offset))
    lines.append(f"{name} {dtype} {'x'.join(map(str, shape))} {found.hex()}\n")
open(sys.argv[2], "w").writelines(lines)
