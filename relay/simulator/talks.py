"""Who talks about what in the invented helpdesk of `samples`: people, problems, answers.

A category that is ASCII is talked about in English, by people whose names are ASCII.
Nobody in here exists; mail addresses are of example.com.
"""

# ruff: noqa: RUF001 - Chinese text has its own punctuation

from dataclasses import dataclass

#: Feishu's codes for who sent a message.
BOT, GUEST, AGENT = 1, 2, 3


@dataclass(frozen=True, slots=True)
class Person:
    """A guest or an agent; `account` makes the mail address and the ids."""

    name: str
    account: str
    city: str


@dataclass(frozen=True, slots=True)
class Talk:
    """What one ticket is about; each line is `(sender, text)`."""

    category: str
    lines: tuple[tuple[int, str], ...]


GUESTS = (
    Person("王小明", "wang.xiaoming", "上海"),
    Person("陈思雨", "chen.siyu", "深圳"),
    Person("赵强", "zhao.qiang", "成都"),
    Person("周倩", "zhou.qian", "北京"),
    Person("Maria Santos", "maria.santos", "Lisbon"),
    Person("James Okafor", "james.okafor", "London"),
    Person("Aiko Tanaka", "aiko.tanaka", "Tokyo"),
    Person("Priya Nair", "priya.nair", "Bengaluru"),
)
AGENTS = (
    Person("李雷", "li.lei", "北京"),
    Person("韩梅梅", "han.meimei", "北京"),
    Person("Tom Fischer", "tom.fischer", "Berlin"),
)
TALKS = (
    Talk(
        "VPN 网络",
        (
            (GUEST, "你好，VPN 从今天早上开始连不上，一直提示证书过期"),
            (BOT, "您好！证书每年更新一次，请先在“软件中心”里重新安装 VPN 客户端。"),
            (GUEST, "装过两次了，还是不行 😭"),
            (AGENT, "我看一下，您的账号证书确实没有同步，正在重新签发。"),
            (AGENT, "已经好了，请退出客户端再登录一次。"),
            (GUEST, "可以了，谢谢！"),
        ),
    ),
    Talk(
        "打印机",
        (
            (GUEST, "12 楼的打印机一直卡纸，急着打合同"),
            (BOT, "请打开右侧盖板，取出卡住的纸张后重启打印机。"),
            (GUEST, "取出来了，能打了"),
        ),
    ),
    Talk(
        "报销",
        (
            (GUEST, "上个月的差旅报销被退回了，原因写的是“发票抬头不符”，应该怎么改？"),
            (BOT, "您可以在“费用报销”里查看退回详情。需要人工帮助请回复“人工”。"),
            (GUEST, "人工"),
            (AGENT, "您好，抬头要写公司全称，我把开票信息发给您。"),
            (GUEST, "收到，我让酒店重开。"),
        ),
    ),
    Talk(
        "权限",
        (
            (GUEST, "新同事下周一入职，需要开通数据平台的只读权限"),
            (AGENT, "请让直属上级在审批里点同意，我这边收到后 10 分钟内开通。"),
            (GUEST, "上级已经同意了"),
            (AGENT, "已开通，下周一生效。"),
        ),
    ),
    Talk(
        "Laptop",
        (
            (
                GUEST,
                "Hi, my laptop won't wake up after last night's update. Black screen",
            ),
            (BOT, "Hold the power button for 10 seconds, then start it while pressing Shift."),
            (GUEST, "No luck. I have a customer demo at 14:00!"),
            (AGENT, "Come to the IT desk on floor 3, a loaner is ready for you."),
            (GUEST, "You saved my day, thanks"),
        ),
    ),
    Talk(
        "Access",
        (
            (GUEST, "I can't clone the payments repository: 403, but my teammates can"),
            (BOT, "Repository rights follow your team. Which team are you in?"),
            (GUEST, "Checkout, since Monday. Before that I was in Search."),
            (
                AGENT,
                "The change had not reached the code host. Synced now, please try again.",
            ),
            (GUEST, "Works 👍"),
        ),
    ),
    Talk(
        "Payroll",
        (
            (
                GUEST,
                "My payslip has my old bank details; can I still change them for May?",
            ),
            (
                AGENT,
                "Yes, until the 20th. I sent you the form; please post no numbers here.",
            ),
            (GUEST, "Done, form is back with you."),
        ),
    ),
    Talk(
        "Visa",
        (
            (GUEST, "Could I get an employment letter for a Schengen visa by Friday?"),
            (
                BOT,
                "Letters are in People Hub → Documents → Letters. It takes one minute.",
            ),
            (GUEST, "Found it, perfect."),
        ),
    ),
)
COMMENTS = (
    "solved by reinstalling",
    "服务很好，回复很快",
    "a bit slow, but friendly",
    "非常满意",
)
