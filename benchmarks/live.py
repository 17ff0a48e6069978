def loop():
    return []


def storm():
    return []


def first_event():
    return []
